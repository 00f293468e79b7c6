"""Views: an image changed at random, as another writer or another camera might have made it, with the class it had.

In data of few thousand images a rare style is missing in most classes. Views make each style common in all of them,
unless they are matched (`training.alignment.match_view`); then they stand for more images like those that there are.
"""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

NUM_DRAWS = 11  # numbers that make a view, each uniform in [-1, 1]; grey images need the first 4 only
# Images are warped by up to (grey ones are not shifted):
MAX_TURN, MAX_SHEAR, MAX_SCALE, MAX_SHIFT = 8.0, 0.15, 0.08, 1.0  # degrees, a share, a share, pixels
# Those in colour also get any hue, and:
MAX_SATURATION, MAX_CONTRAST, MAX_BRIGHTNESS = 2.5, 0.3, 0.15  # a factor or its inverse, a share, of white
INVERTED = 0.3  # share of the colour images whose light and dark change places
MIN_INK = 0.05  # of white: by how much the pixels that show something differ from the border
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)  # places are exact on GPUs and TPUs, too


def make_views(images: Float[Array, "b h w c"], draws: Float[Array, "b 11"]) -> Float[Array, "b h w c"]:
    """A view of each image, in [0, 1]: warped, and in colour recoloured."""
    views = jax.vmap(_warp)(images, draws[:, :6])
    return views if images.shape[-1] == 1 else jax.vmap(_recolour)(views, draws[:, 6:])


def shift_images(images: Array, shifts: Int[Array, "2 b"]) -> Array:
    """Shows each image from so many rows and columns further on, repeating its border."""
    count, height, width, _ = images.shape
    rows = jnp.clip(jnp.arange(height)[None] + shifts[0][:, None], 0, height - 1)
    columns = jnp.clip(jnp.arange(width)[None] + shifts[1][:, None], 0, width - 1)
    return images[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _warp(image: Float[Array, "h w c"], draws: Float[Array, " 6"]) -> Float[Array, "h w c"]:
    angle, shear = jnp.deg2rad(MAX_TURN) * draws[0], MAX_SHEAR * draws[1]
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    sheared = turn @ (jnp.eye(2) + shear * jnp.array([[0, 0], [1, 0]]))
    matrix = sheared / (1 + MAX_SCALE * draws[None, 2:4])  # from a place in the view to that in the image
    places = jnp.indices(image.shape[:2]).reshape(2, -1)
    if image.shape[-1] == 1:
        # MNIST's digits are centred by their mass and scaled to one box. So are views, or their latents would differ.
        centre, size = _centre_and_growth(_ink(image[..., 0]).reshape(-1), places, matrix)
        matrix, shift = size * matrix, jnp.zeros((2, 1))
    else:
        centre, shift = (jnp.array(image.shape[:2])[:, None] - 1) / 2, MAX_SHIFT * draws[4:, None]
    sources = (_product(matrix, places - centre) + centre + shift).reshape(2, *image.shape[:2])
    take = functools.partial(map_coordinates, coordinates=list(sources), order=1, mode="nearest")
    return jax.vmap(take, in_axes=2, out_axes=2)(image)


def _ink(image: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """By how much each pixel differs from the border's median."""
    return abs(image - jnp.median(jnp.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])))


def _centre_and_growth(
    ink: Float[Array, " p"], places: Int[Array, "2 p"], matrix: Float[Array, "2 2"]
) -> tuple[Float[Array, "2 1"], Float[Array, ""]]:
    """The ink's centre of mass, and by how much the inverse of `matrix` would stretch its longer side."""
    centre = (_product(places, ink) / jnp.maximum(ink.sum(), 1e-6))[:, None]
    (a, b), (c, d) = matrix
    inverse = jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)

    def longer_side(places: Float[Array, "2 p"]) -> Float[Array, ""]:
        inked = jnp.where(ink[None] > MIN_INK, places, jnp.nan)
        return (jnp.nanmax(inked, axis=1) - jnp.nanmin(inked, axis=1)).max()

    before, after = longer_side(places - centre), longer_side(_product(inverse, places - centre))
    return centre, jnp.where(before > 0, after / before, 1)  # an empty image has no sides


def _recolour(image: Float[Array, "h w 3"], draws: Float[Array, " 5"]) -> Float[Array, "h w 3"]:
    angle, saturation = jnp.pi * draws[0], MAX_SATURATION ** draws[1]
    # A turn about the axis of greys (Rodrigues): the hue changes, the mean of the three channels stays.
    across = jnp.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / jnp.sqrt(3.0)
    grey = jnp.full((3, 3), 1 / 3)
    colour = saturation * (jnp.cos(angle) * (jnp.eye(3) - grey) + jnp.sin(angle) * across)
    contrast = (1 + MAX_CONTRAST * draws[2]) * jnp.where(draws[3] < 2 * INVERTED - 1, -1, 1)
    changed = contrast * (image @ (grey + colour).T - 0.5) + 0.5 + MAX_BRIGHTNESS * draws[4]
    return jnp.clip(changed, 0, 1)

"""Views: an image changed at random, as another writer or another camera might have made it, with the class it had.

In data of few thousand images a rare style is missing in most classes. Views make each style common in all of them.
"""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

NUM_DRAWS = 11  # numbers that make a view, each uniform in [-1, 1]; grey images need the first 6 only
# Images are warped by up to:
MAX_TURN, MAX_SHEAR, MAX_SCALE, MAX_SHIFT = 8.0, 0.15, 0.08, 1.0  # degrees, a share, a share, pixels
# Those in colour also get any hue, and:
MAX_SATURATION, MAX_CONTRAST, MAX_BRIGHTNESS = 2.5, 0.3, 0.15  # a factor or its inverse, a share, of white
INVERTED = 0.3  # share of the colour images whose light and dark change places


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
    sides = jnp.array(image.shape[:2])[:, None, None]
    centre = (sides - 1) / 2
    away = (jnp.indices(image.shape[:2]) - centre) / (1 + MAX_SCALE * draws[2:4])[:, None, None]
    places = jnp.einsum("ij,jhw->ihw", sheared, away) + centre + MAX_SHIFT * draws[4:][:, None, None]
    take = functools.partial(map_coordinates, coordinates=list(places), order=1, mode="nearest")
    return jax.vmap(take, in_axes=2, out_axes=2)(image)


def _recolour(image: Float[Array, "h w 3"], draws: Float[Array, " 5"]) -> Float[Array, "h w 3"]:
    angle, saturation = jnp.pi * draws[0], MAX_SATURATION ** draws[1]
    # A turn about the axis of greys (Rodrigues): the hue changes, the mean of the three channels stays.
    across = jnp.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / jnp.sqrt(3.0)
    grey = jnp.full((3, 3), 1 / 3)
    colour = saturation * (jnp.cos(angle) * (jnp.eye(3) - grey) + jnp.sin(angle) * across)
    contrast = (1 + MAX_CONTRAST * draws[2]) * jnp.where(draws[3] < 2 * INVERTED - 1, -1, 1)
    changed = contrast * (image @ (grey + colour).T - 0.5) + 0.5 + MAX_BRIGHTNESS * draws[4]
    return jnp.clip(changed, 0, 1)

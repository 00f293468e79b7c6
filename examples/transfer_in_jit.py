"""Transfer inside a function of your own: compiled, mapped over classes, and differentiated.

python examples/transfer_in_jit.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import infoae_jax


def main() -> tuple[Float[Array, "classes b h w c"], Float[Array, "b z"]]:
    """Every class in the style of some images, and how each latent would have to change for a bolder 7."""
    model = infoae_jax.load("mnist")
    module, variables = model.module, model.variables
    images = model.decode(model.sample(4, seed=0), 3)  # four images; yours in their place

    @jax.jit
    def every_class(variables, images):
        z = module.apply(variables, images, method="encode")
        classes = jnp.arange(module.num_classes)
        return jax.vmap(lambda c: module.apply(variables, z, jnp.full(len(z), c), method="decode"))(classes)

    @jax.jit
    @jax.grad
    def bolder(z, variables):
        return module.apply(variables, z, jnp.full(len(z), 7), method="decode").sum()

    swaps, direction = every_class(variables, images), bolder(model.encode(images), variables)
    print(f"{len(swaps)} classes in {len(images)} styles; a 7 becomes bolder along {np.asarray(direction[0]).round()}")
    return swaps, direction


if __name__ == "__main__":
    main()

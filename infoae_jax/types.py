"""Names for the trees that functions pass to each other."""

from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Float

if TYPE_CHECKING:
    from jax import Array
else:
    Array = Any  # so that modules which only need `Json` do not wait for JAX

Tree: TypeAlias = Any  # any pytree of arrays
Params: TypeAlias = dict[str, Any]  # parameters by module, as flax nests them
Variables: TypeAlias = dict[str, Any]  # the first argument of a model's `apply`: {"params": Params}
OptState: TypeAlias = Any  # the state of an optax transformation
Metrics: TypeAlias = dict[str, Float[Array, ""]]
Json: TypeAlias = dict[str, Any]  # a JSON object

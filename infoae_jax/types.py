"""Names for the trees that functions hand each other."""

from typing import Any, TypeAlias

from jaxtyping import Array, Float

Tree: TypeAlias = Any  # any pytree of arrays
Params: TypeAlias = dict[str, Any]  # parameters by module, as flax nests them
Variables: TypeAlias = dict[str, Any]  # what a model's `apply` takes: {"params": Params}
OptState: TypeAlias = Any  # what an optax transformation keeps
Metrics: TypeAlias = dict[str, Float[Array, ""]]
Json: TypeAlias = dict[str, Any]  # an object read from JSON, or to be written as such

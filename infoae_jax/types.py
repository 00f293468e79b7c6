"""Names for the trees that functions pass to each other."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Float

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    AnyArray: TypeAlias = Array | np.ndarray
    Scalar: TypeAlias = Array | float
else:
    Array = AnyArray = Scalar = Any  # so that modules which only need `Json` do not wait for JAX

Tree: TypeAlias = Any  # any pytree of arrays
Params: TypeAlias = dict[str, Any]  # parameters by module, as flax nests them
# The first argument of a model's `apply`: {"params": Params, "constants": Params}. Constants are set, but not trained.
Variables: TypeAlias = dict[str, Any]
OptState: TypeAlias = Any  # the state of an optax transformation
Metrics: TypeAlias = Mapping[str, Float[AnyArray, "*runs"] | float]  # of a group of runs: with a value for each
Hyper: TypeAlias = Mapping[str, Scalar]  # what a step takes as traced arguments, besides arrays
Batch: TypeAlias = Mapping[str, AnyArray]  # arrays by name, with a row for each image
Json: TypeAlias = dict[str, Any]  # a JSON object

"""The state of a training."""

from typing import Literal, TypeAlias

import flax.struct

from infoae_jax.types import OptState, Params, Tree, Variables

PhaseName: TypeAlias = Literal["autoencoder", "alignment", "refinement"]


@flax.struct.dataclass
class TrainState:
    """All that a resumed training starts from."""

    step: Tree  # int32: number of steps done, over all phases
    variables: Variables  # of the model
    optimizers: dict[PhaseName, OptState]
    sums: dict[PhaseName, Tree]  # of metrics since the epoch began, so that a resumed one reports the same means


@flax.struct.dataclass
class Carry:
    """What the steps of a phase change of the state."""

    step: Tree
    params: Params
    optimizer: OptState
    sums: Tree

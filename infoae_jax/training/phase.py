"""What a phase of a training is: data, from which one loop (`loop.py`) takes the steps of all of them."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

from infoae_jax.config import Config, Section
from infoae_jax.training.run import Run
from infoae_jax.training.state import Carry, PhaseName, TrainState
from infoae_jax.types import Batch, Metrics, OptState, Params, Variables

# (model, compiled settings, params, frozen variables, optimiser state, batch, traced settings, axis) -> (params,
# optimiser state, metrics); see `autoencoder.train_step`.
StepFunction: TypeAlias = Callable[..., tuple[Params, OptState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the training with steps of its own. Its name is also that of its lines in metrics.jsonl."""

    name: PhaseName
    section: Callable[[Config], Section]  # its settings
    epochs: Callable[[Config], int]  # 0: it is left out
    trains: tuple[str, ...]  # the parts of the parameters that it changes
    reads: tuple[str, ...]  # those that it needs besides
    metrics: tuple[str, ...]  # what its step returns
    shown: tuple[str, ...]  # what of it the terminal shows
    init_optimizer: Callable[[Params], OptState]
    begin: Callable[[Run, TrainState, bool], tuple[TrainState, Batch]]  # True: afresh, not resumed; gives the tables
    step: StepFunction

    def carry(self, state: TrainState) -> Carry:
        """What its steps change of the state."""
        params = {name: state.variables["params"][name] for name in self.trains}
        return Carry(state.step, params, state.optimizers[self.name], state.sums[self.name])

    def frozen(self, state: TrainState) -> Variables:
        """What its steps read of the state besides."""
        params = {name: state.variables["params"][name] for name in self.reads if name in state.variables["params"]}
        return {"params": params, "constants": state.variables["constants"]}

    def merge(self, state: TrainState, carry: Carry) -> TrainState:
        """The state with what the steps have changed."""
        return TrainState(
            carry.step,
            state.variables | {"params": state.variables["params"] | carry.params},
            state.optimizers | {self.name: carry.optimizer},
            state.sums | {self.name: carry.sums},
        )


@dataclasses.dataclass(frozen=True)
class Span:
    """When a phase takes its steps, counted over all phases, and with how many images each."""

    first: int
    steps_per_epoch: int
    epochs: int
    batch_size: int
    epochs_before: int  # of the phases before

    @property
    def last(self) -> int:
        """The number of steps done when the phase is."""
        return self.first + self.steps_per_epoch * self.epochs

    def epoch(self, step: int) -> int:
        """The epoch within which, or with which, `step` steps end; from 1."""
        return (step - self.first - 1) // self.steps_per_epoch + 1

    def epoch_ends(self, step: int) -> bool:
        return (step - self.first) % self.steps_per_epoch == 0

    def steps_until_event(self, step: int, log_every: int) -> int:
        """Steps from `step` to the next that is logged: each epoch has the same, so that few programs are compiled."""
        within = (step - self.first) % self.steps_per_epoch
        return min(self.steps_per_epoch - within, log_every - within % log_every)

    def call_lengths(self, step: int, log_every: int) -> set[int]:
        """The numbers of steps between all that are logged, from `step` on."""
        steps = range(step, min(step + 2 * self.steps_per_epoch, self.last))
        return {self.steps_until_event(s, log_every) for s in steps if s == step or self.is_event(s, log_every)}

    def is_event(self, step: int, log_every: int) -> bool:
        """Whether this step is logged: each `log_every`-th of an epoch, and its last."""
        return (step - self.first) % self.steps_per_epoch % log_every == 0

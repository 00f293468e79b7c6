"""The loop of a training: takes the steps of all phases, and between them logs, measures and saves."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from infoae_jax.devices import hosts
from infoae_jax.devices.signals import nothing_to_save
from infoae_jax.errors import DivergedError, UserError
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.runs.provenance import now
from infoae_jax.training.monitor import Reporter, observe, progress_bar
from infoae_jax.training.phase import Phase, Span
from infoae_jax.training.run import Run
from infoae_jax.training.schedule import schedule
from infoae_jax.training.state import TrainState
from infoae_jax.training.stepper import Layout, Stepper, Taken
from infoae_jax.types import Batch


class Loop:
    """Runs that take their steps together: one alone, or those of a group that stand at the same step.

    Attributes:
      states: of each run, the newest that was measured or saved.
      errors: what went wrong with a run, by its number; the others go on.
      step: number of steps done, over all phases.
      is_stopped: whether there are steps left.
    """

    def __init__(
        self, runs: Sequence[Run], states: Sequence[TrainState], layout: Layout, should_stop: Callable[[bool], bool]
    ):
        """What is trained of `states` is given away. `should_stop` is asked whether to stop after a step.

        It is told whether the step is one that all processes of the run ask about.
        """
        self._runs, self._layout, self._should_stop = runs, layout, should_stop
        self.states, self.errors = list(states), dict[int, Exception]()
        self.step, self.is_stopped = int(states[0].step), False
        self._saved = time.monotonic()  # when
        self._untold: tuple[int, Taken] | None = None  # the step of the latest event, and what it gave

    def train(self) -> None:
        """Takes all steps that are left, or those until it is asked to stop."""
        devices = 1 if self._layout.is_group else self._layout.mesh.size
        phases = schedule(self._runs[0].config, len(self._runs[0].splits.train), devices)
        last = phases[-1][1].last
        if self.step == last and all(run.has_ended() for run in self._runs):
            return
        self._each(lambda i: self._runs[i].log_start(self.states[i]))
        for number, (phase, span) in enumerate(phases, 1):
            if self.step < span.last and self._goes_on():  # a signal may have come while the phase before was saved
                self.is_stopped = self._should_stop(True)
            if self.step < span.last and self._goes_on():
                self._train_phase(f"{phase.name}, phase {number} of {len(phases)}", phase, span)
        self.is_stopped = self.step < last
        kind = "stop" if self.is_stopped else "end"
        if hosts.is_first():
            self._each(lambda i: append_metrics(self._runs[i].folder, kind, step=self.step, time=now()))

    def _goes_on(self) -> bool:
        return not self.is_stopped and len(self.errors) < len(self._runs)

    def _each(self, do: Callable[[int], object]) -> None:
        """Calls `do` with the number of each run that goes on; what it raises ends that run alone."""
        for i, run in enumerate(self._runs):
            if i not in self.errors:
                with noting(self.errors, i, run.folder):
                    do(i)

    def _train_phase(self, title: str, phase: Phase, span: Span) -> None:
        runs, tables, log_every = self._runs, dict[int, Batch](), self._runs[0].config.log.every_steps

        def begin(i: int) -> None:
            self.states[i], tables[i] = phase.begin(runs[i], self.states[i], self.step == span.first)

        self._each(lambda i: runs[i].print(f"{title}: preparing and compiling ..."))
        with nothing_to_save():
            self._each(begin)
        if not tables:
            return
        # A run that could not begin takes steps all the same, on the tables of another, and they are lost.
        rows = [tables.get(i, next(iter(tables.values()))) for i in range(len(runs))]
        stepper = Stepper(runs[0].model, phase, span, [r.config for r in runs], self.states, rows, self._layout)
        if stepper.is_resident:
            with nothing_to_save():
                stepper.compile(self.step, span.call_lengths(self.step, log_every))
        reporters = [Reporter(run, phase, span, self.step) for run in runs]
        before: Taken | None = None
        with progress_bar(title, span, self.step, is_shown=not self._layout.is_group) as bar:
            while self.step < span.last and self._goes_on():
                steps = span.steps_until_event(self.step, log_every) if stepper.is_resident else 1
                taken = stepper.take(self.step, steps)
                # Two calls in flight keep a device busy. (On several CPU devices XLA deadlocks if it holds many.)
                jax.block_until_ready(before or taken)
                self._tell(reporters)  # an event is told of one call late, so that no device waits for the host
                is_new, self.step = self.step == 0, self.step + steps
                bar.update(steps)
                is_event = span.is_event(self.step, log_every)
                self.is_stopped = self._should_stop(is_event)
                self._untold = (self.step, taken) if self.is_stopped or is_event else None
                if is_new and 0 in runs[0].config.log.sample_epochs:  # not before there is a step to tell of
                    self._tell(reporters)
                    self._each(lambda i: observe(runs[i], self.states[i], 0))
                if not (before or stepper.is_resident):  # it compiled
                    self._each(lambda i: reporters[i].restart(self.step))
                before = taken
                if self.is_stopped or is_event:
                    self._handle(span, stepper, reporters)

    def _handle(self, span: Span, stepper: Stepper, reporters: list[Reporter]) -> None:
        """Measures and saves what is due after a step."""
        config, step, is_last = self._runs[0].config, self.step, self.step == span.last
        epoch = span.epochs_before + span.epoch(step)
        measures = span.epoch_ends(step) and (is_last or epoch in config.log.sample_epochs)
        is_due = time.monotonic() - self._saved >= config.checkpoint.every_seconds
        saves = is_last or self.is_stopped or hosts.any_of(is_due)
        if not (measures or saves):
            return
        self._tell(reporters)

        def settle(i: int) -> None:
            run = self._runs[i]
            self.states[i] = stepper.state(self.states[i], i)
            if measures:
                reporters[i].check(step, observe(run, self.states[i], epoch))
            if saves:  # nothing unsound; the metrics of the step are from before it
                reporters[i].check(step, {"parameters": _magnitude(self.states[i])})
                run.save(self.states[i])

        self._each(settle)
        self._each(lambda i: reporters[i].restart(step))
        self._saved = time.monotonic() if saves else self._saved

    def _tell(self, reporters: list[Reporter]) -> None:
        """Logs the latest event, once."""
        if self._untold:
            (step, taken), self._untold = self._untold, None
            self._each(lambda i: reporters[i](step, *jax.device_get(self._layout.pick(taken, i))))


def _magnitude(state: TrainState) -> float:
    """The sum of all parameters' sizes: not finite if one is not."""
    return float(sum(np.abs(leaf).sum(dtype=np.float64) for leaf in map(np.asarray, jax.tree.leaves(state.variables))))


@contextlib.contextmanager
def noting(errors: dict[int, Exception], number: int, folder: Path) -> Iterator[None]:
    """Notes what goes wrong with the run of this number, in `folder`."""
    try:
        yield
    except OSError as error:
        errors[number] = UserError(
            f"The run folder {str(folder)!r} could not be written ({error}). Mend that, or make room, and run the same "
            f"command: it resumes from the last checkpoint, if there is one."
        )
        errors[number].__cause__ = error
    except (DivergedError, UserError) as error:  # a sentence says it all, and its frames hold memory
        errors[number] = error.with_traceback(None)
    except Exception as error:  # whatever it is, the other runs go on
        errors[number] = error

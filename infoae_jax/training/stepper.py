"""The programs that take the steps of a phase: compiled, what they change donated, shared by the devices.

A run alone has each batch shared by the devices. In a group, whole runs are divided among them, and a device takes the
steps of its runs as one program (`jax.vmap`).

Accelerators keep what the steps get rows of, and take many steps in a call (`lax.scan`), during which nothing crosses
between host and device. On the CPU, where convolutions in loops are slow and the device's memory is the host's, NumPy
gathers each batch, and a call takes one step.
"""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.config import Config, Static, split_settings
from infoae_jax.devices import hosts
from infoae_jax.devices.compiling import compiler_options
from infoae_jax.devices.computing import computing
from infoae_jax.devices.mesh import AXIS, is_cpu
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.phase import Phase, Span
from infoae_jax.training.state import Carry, TrainState
from infoae_jax.training.stream import shuffled
from infoae_jax.types import Batch, Hyper, Metrics, Tree, Variables

Taken: TypeAlias = tuple[Metrics, Metrics]  # of the last step, and the sums since its epoch began
OF_EACH_RUN = ("z",)  # tables of which each run of a group has its own
JIT_CACHE_SIZE = 16  # programs that are kept, with what was compiled of them


@dataclasses.dataclass(frozen=True)
class Layout:
    """How training lies on the devices: a run whose batches they share, or a group of runs divided among them."""

    mesh: Mesh
    is_group: bool = False

    def sharding(self, per_run: bool) -> NamedSharding:
        """Of what each run has for itself, or of what all devices hold."""
        return NamedSharding(self.mesh, P(AXIS) if per_run and self.is_group else P())

    def stack(self, trees: list[Tree]) -> Tree:
        """The trees of all runs on the devices, those of a group stacked."""
        if not self.is_group:
            return hosts.put(trees[0], self.sharding(True))
        missing = -len(trees) % self.mesh.size  # so that each device has as many runs
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get([*trees, *trees[:1] * missing]))
        return jax.device_put(stacked, self.sharding(True))

    def pick(self, tree: Tree, run: int) -> Tree:
        """One run's part of what `stack` or a step returned."""
        # JAX keeps what it copies to the host: the stack crosses once for all runs.
        return jax.tree.map(lambda x: np.asarray(x)[run], tree) if self.is_group else tree


def is_resident(rows: Batch) -> bool:
    """Whether the devices keep what the steps get rows of: accelerators do, unless it takes half of their memory."""
    if is_cpu():
        return False
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit is None or sum(table.nbytes for table in rows.values()) < limit / 2


@functools.lru_cache(JIT_CACHE_SIZE)
def step_program(
    model: InfoAutoencoder, phase: Phase, config: Static, batch_size: int, layout: Layout, steps: int
) -> jax.stages.Wrapped:
    """The jitted steps of (carry, frozen, rows, order, hyper).

    They get rows of tables, `steps` times, in this order of an epoch. Without an order (None), one gets all rows.
    """
    axis = None if layout.is_group else AXIS

    def step(carry: Carry, frozen: Variables, batch: Batch, order: None, hyper: Hyper) -> tuple[Carry, Taken]:
        within = carry.step - hyper["first"]
        now = {**hyper, "step": carry.step, "progress": within / hyper["total_steps"]}
        params, optimizer, metrics = phase.step(model, config, carry.params, frozen, carry.optimizer, batch, now, axis)
        begins = within % hyper["steps_per_epoch"] == 0
        sums = {name: jnp.where(begins, 0.0, total) + metrics[name] for name, total in carry.sums.items()}
        return Carry(carry.step + 1, params, optimizer, sums), (metrics, sums)

    def scan(carry: Carry, frozen: Variables, tables: Batch, order: jax.Array, hyper: Hyper) -> tuple[Carry, Taken]:
        devices, device = (jax.lax.axis_size(axis), jax.lax.axis_index(axis)) if axis else (1, 0)
        share = batch_size // devices

        def one(carry: Carry, _: None) -> tuple[Carry, Taken]:
            start = (carry.step - hyper["first"]) % hyper["steps_per_epoch"] * batch_size + device * share
            rows = jax.lax.dynamic_slice(order, (start,), (share,))
            return step(carry, frozen, {name: table[rows] for name, table in tables.items()}, None, hyper)

        carry, taken = jax.lax.scan(one, carry, length=steps)
        return carry, jax.tree.map(lambda values: values[-1], taken)

    def call(carry: Carry, frozen: Variables, rows: Batch, order: Tree, hyper: Hyper) -> tuple[Carry, Taken]:
        specs: Tree
        take, own, specs = (step, P(), P(AXIS)) if order is None else (scan, P(), P())
        if layout.is_group:
            axes = {name: 0 if name in OF_EACH_RUN else None for name in rows}
            take, own = jax.vmap(scan, in_axes=(0, 0, axes, 0, 0)), P(AXIS)
            specs = {name: P() if axis is None else P(AXIS) for name, axis in axes.items()}
        # That all devices return the same is not checked: they receive the same sums, and compute the same with them.
        shared = jax.shard_map(
            take, mesh=layout.mesh, in_specs=(own, own, specs, own, own), out_specs=own, check_vma=False
        )
        return shared(carry, frozen, rows, order, hyper)

    return jax.jit(call, donate_argnums=0, compiler_options=compiler_options("steps"))


def traced_settings(phase: Phase, span: Span, config: Config) -> Hyper:
    """The scalars that a program of this phase takes as arguments."""
    _, values = split_settings(phase.section(config))
    counts = {"first": span.first, "steps_per_epoch": span.steps_per_epoch, "total_steps": span.last - span.first}
    hyper: dict[str, Any] = {name: np.float32(value) for name, value in values.items()}
    hyper |= {name: np.int32(count) for name, count in counts.items()} | {"seed": np.uint32(config.train.seed)}
    return hyper


class Stepper:
    """Takes the steps of a phase, of a run or of a group whose runs stand at the same step."""

    def __init__(
        self,
        model: InfoAutoencoder,
        phase: Phase,
        span: Span,
        configs: Sequence[Config],
        states: Sequence[TrainState],
        tables: Sequence[Batch],
        layout: Layout,
    ):
        """Puts on the devices what stays there.

        Args:
          configs: one for each run; equal in `config.program_key`.
          states: where the runs begin; what the phase trains of them is given away.
          tables: for each run, what its steps get rows of.
        """
        self._phase, self._span, self._layout = phase, span, layout
        self._seeds, self._count = [config.train.seed for config in configs], len(tables[0]["labels"])
        static, _ = split_settings(phase.section(configs[0]))
        self._program = functools.partial(step_program, model, phase, static, span.batch_size, layout)
        self._carry, self._frozen = (layout.stack([*map(part, states)]) for part in (phase.carry, phase.frozen))
        self._hyper = layout.stack([traced_settings(phase, span, config) for config in configs])
        self._rows = tables[0]
        self.is_resident = layout.is_group or is_resident(tables[0])
        if self.is_resident:
            shared = {name: table for name, table in tables[0].items() if name not in OF_EACH_RUN}
            own = [{name: table for name, table in rows.items() if name in OF_EACH_RUN} for rows in tables]
            self._rows = hosts.put(shared, layout.sharding(per_run=False)) | layout.stack(own)
        self._epoch, self._order = 0, np.zeros(0, np.int32)  # of the latest epoch

    def compile(self, step: int, lengths: set[int]) -> list[jax.stages.Compiled]:
        """The programs of calls of so many steps, compiled at the same time; `take` uses them."""
        arguments = self._carry, self._frozen, self._rows, self._order_of(step), self._hyper
        with ThreadPoolExecutor() as threads:
            compile_one = computing(lambda steps: self._program(steps).lower(*arguments).compile())
            return list(threads.map(compile_one, lengths))

    def take(self, step: int, steps: int) -> Taken:
        """Takes `steps` steps, after `step`, within one epoch; what it returns waits on the devices."""
        order, rows = self._order_of(step), self._rows
        if not self.is_resident:
            within = (step - self._span.first) % self._span.steps_per_epoch * self._span.batch_size
            indices = order[within : within + self._span.batch_size]
            batch = {name: table[indices] for name, table in rows.items()}
            rows, order = hosts.put(batch, NamedSharding(self._layout.mesh, P(AXIS))), None
        self._carry, taken = self._program(steps)(self._carry, self._frozen, rows, order, self._hyper)
        return taken

    def _order_of(self, step: int) -> Tree:
        epoch = self._span.epochs_before + self._span.epoch(step + 1)
        if epoch != self._epoch:
            orders = [shuffled(seed, epoch, self._count) for seed in self._seeds]
            self._epoch, self._order = epoch, self._layout.stack(orders) if self.is_resident else orders[0]
        return self._order

    def state(self, state: TrainState, run: int) -> TrainState:
        """`state` with what the steps of this run have changed; read it before the next are taken."""
        return self._phase.merge(state, self._layout.pick(self._carry, run))

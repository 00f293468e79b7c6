"""A group of runs trained as one program: vmapped over the runs, each device taking its share of them.

For accelerators, which a single small network leaves idle most of the time. (On the CPU a vmapped convolution is slow,
and runs one after the other are faster.) Every run goes through the same phases as alone and leaves the same folder;
only the steps that they ask for are taken together. If the runs are at different steps, as after a kill, those that
are behind take steps until they meet the others.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.config import Config, TrainConfig, program_key
from infoae_jax.data.dataset import Dataset
from infoae_jax.data.load import load_splits
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.folder import lock
from infoae_jax.training.autoencoder import gathered_train_step, losses
from infoae_jax.training.fit import Result, build_model, stop_signals, train
from infoae_jax.training.order import autoencoder_order
from infoae_jax.training.run import Phase, Run, Slice, StepRequest, own_slice, print_above_bar
from infoae_jax.training.state import init_state, make_hyper, static_config, traced_weights
from infoae_jax.training.stepper import JIT_CACHE_SIZE, LaterKind, Program, gathered_stepper, later_section, later_step
from infoae_jax.types import Params, Tree

# Over which axis a step is vmapped of each of a `StepRequest`'s tables: None where all runs share the table.
TABLE_AXES: dict[LaterKind, tuple[int | None, ...]] = {"align": (0, None, None), "refine": (None, 0, None)}


def fit_group(
    configs: Sequence[Config], folders: Sequence[str | Path], devices: Sequence[jax.Device] | None = None
) -> list[Result | Exception]:
    """Trains or resumes all of `configs` in their run folders at once; otherwise as `fit.fit`.

    A run has the metrics that it would have alone on one device, but for rounding. A signal stops all runs.

    Args:
      configs: equal in `config.program_key`.
      devices: the runs are divided among them; None: all local ones.

    Returns:
      What `fit` would return or raise for each: a run that diverges or cannot be trained does not stop the others.

    Raises:
      UserError: if the images cannot be loaded, or the configurations do not suit them.
    """
    if len({program_key(config) for config in configs}) != 1:
        raise ValueError("These configurations do not share a program: see config.program_key.")
    mesh = Mesh(np.array(jax.local_devices() if devices is None else devices), (AXIS,))
    one = Mesh(mesh.devices[:1], (AXIS,))  # for what a run computes alone: first state, latents, test metrics, swaps
    device = f"{mesh.size} x {mesh.devices[0].device_kind}, in a group"
    splits, stop = load_splits(configs[0].data), threading.Event()
    model = build_model(configs[0], splits)
    shared: dict[str, np.ndarray] = {}

    def start(config: Config, folder: Path, is_printed: bool) -> Phase[Result]:
        run = Run(config, folder, splits, model, device, one, one, lambda step: stop.is_set(), has_bar=False)
        run.print = lambda text: print_above_bar(f"{folder.name}: {text}") if is_printed else None
        run.shared = shared
        with lock(folder):
            return (yield from train(run))

    with stop_signals() as stopped:
        phases = [start(config, Path(f), i == 0) for i, (config, f) in enumerate(zip(configs, folders, strict=True))]
        try:
            group = _Group(configs, phases, model, splits.train, mesh)
            while group.requests:
                answers = group.take_steps()
                if stopped():
                    stop.set()  # between steps, so that all runs stop at the same one
                for run, answer in answers.items():
                    group.answer(run, answer)
        finally:
            for phase in phases:
                phase.close()
        return [dataclasses.replace(o, stopped=stopped()) if isinstance(o, Result) else o for o in group.outcomes]


class _Group:
    """Runs that wait for steps, and those of them that are on the devices now (all that are at the same step)."""

    def __init__(
        self, configs: Sequence[Config], runs: list[Phase[Result]], model: InfoAutoencoder, data: Dataset, mesh: Mesh
    ):
        self.requests: dict[int, StepRequest] = {}  # of the runs that are not done, by their number
        self.outcomes: list[Any] = [None] * len(runs)  # of those that are
        self._configs, self._runs, self._model, self._data, self._mesh = configs, runs, model, data, mesh
        self._split, self._replicated = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
        for run in range(len(runs)):
            self.answer(run, None)
        # Always the same number, so that there is one program; those without a run repeat another.
        self._num_slots = -(-len(self.requests) // mesh.size) * mesh.size
        self._slots: list[int] = []  # the run in each
        self._carry: Tree = None  # of all slots, stacked
        self._step: Callable[..., tuple[Any, ...]]

    def answer(self, run: int, answer: tuple[Any, ...] | None) -> None:
        """Lets a run go on until its next request, or to its end."""
        self.requests.pop(run, None)
        try:
            self.requests[run] = self._runs[run].send(answer)
        except StopIteration as end:
            self.outcomes[run] = end.value
        except Exception as error:  # whatever it is, the other runs go on
            self.outcomes[run] = error

    def take_steps(self) -> dict[int, tuple[Any, ...]]:
        """Takes the steps that the runs furthest behind ask for; returns the answers to them."""
        first = min(request.step for request in self.requests.values())
        members = {run: request for run, request in self.requests.items() if request.step == first}
        carries = [request.carry for request in members.values()]
        if not all(isinstance(carry, Slice) and carry.stack is self._carry for carry in carries):
            self._load(list(members))
        # A slot whose run is gone repeats the arguments of another; what it computes is not read.
        stand_in = next(iter(members))
        arguments = [self.requests[run if run in members else stand_in].arguments for run in self._slots]
        self._carry, metrics, *taken = self._step(self._carry, arguments)
        slots = {run: self._slots.index(run) for run in members}
        return {run: (Slice(self._carry, slot), Slice(metrics, slot), *taken) for run, slot in slots.items()}

    def _load(self, members: list[int]) -> None:
        self._slots = (members + members[:1] * self._num_slots)[: self._num_slots]
        requests, configs = [self.requests[run] for run in self._slots], [self._configs[run] for run in self._slots]
        self._carry = self._stack([own_slice(request.carry) for request in requests])
        kind = requests[0].kind
        if kind == "train":
            self._step = self._autoencoder_step([config.train for config in configs])
        else:
            self._step = self._later_step(kind, configs, [request.arguments[0] for request in requests])

    def _stack(self, trees: Sequence[Tree]) -> Tree:
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(trees)), self._split)

    def _autoencoder_step(self, configs: list[TrainConfig]) -> Callable[..., tuple[Any, ...]]:
        images, labels = self._data.images, self._data.labels
        hyper = self._stack([make_hyper(config, len(labels)) for config in configs])
        on_device = jax.device_put((images, labels), self._replicated)
        programs = functools.partial(train_program, self._model, static_config(configs[0]), self._mesh)
        make_order, per_epoch = order_program(len(labels), self._mesh), len(labels) // configs[0].batch_size
        take = gathered_stepper(programs, on_device, make_order, hyper, configs[0], per_epoch)
        return lambda state, arguments: take(state, *arguments[0])

    def _later_step(
        self, kind: LaterKind, configs: list[Config], tables: list[tuple[np.ndarray, ...]]
    ) -> Callable[..., tuple[Any, ...]]:
        weights = self._stack([traced_weights(later_section(config, kind)) for config in configs])
        on_device = tuple(
            jax.device_put(arrays[0], self._replicated) if axis is None else self._stack(arrays)
            for axis, arrays in zip(TABLE_AXES[kind], zip(*tables, strict=True), strict=True)
        )
        has_cycle = kind == "refine" and any(config.refine.cycle_weight > 0 for config in configs)
        program = later_program(self._model, kind, self._mesh, has_cycle)

        def take(carry: Tree, arguments: list[tuple[Any, ...]]) -> tuple[Any, ...]:
            _, rows, targets, progress = zip(*arguments, strict=True)
            batch = jax.device_put((np.stack(rows).astype(np.int32), np.stack(targets)), self._split)
            return program(carry, on_device, *batch, np.float32(progress[0]), weights)

        return take


def _for_each_run(one: Callable[..., Any], mesh: Mesh, axes: tuple[Any, ...]) -> Program:
    """`one` vmapped over `axes` (0: each run has its own; None: all share it), the first argument donated."""
    specs = jax.tree.map(lambda axis: P() if axis is None else P(AXIS), axes, is_leaf=lambda axis: axis is None)
    split = jax.shard_map(jax.vmap(one, in_axes=axes), mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
    return jax.jit(split, donate_argnums=0)


@functools.lru_cache(JIT_CACHE_SIZE)
def train_program(model: InfoAutoencoder, config: TrainConfig, mesh: Mesh, steps: int) -> Program:
    """`gathered_train_step` of (states, all images, all labels, orders, hypers)."""
    function = functools.partial(gathered_train_step, model, config, steps=steps)
    return _for_each_run(function, mesh, (0, None, None, 0, 0))


@functools.lru_cache(JIT_CACHE_SIZE)
def order_program(num_images: int, mesh: Mesh) -> Callable[..., jax.Array]:
    """`autoencoder_order` of (steps, hypers)."""
    orders = jax.vmap(functools.partial(autoencoder_order, num_images=num_images))
    return jax.jit(jax.shard_map(orders, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False))


@functools.lru_cache(JIT_CACHE_SIZE)
def later_program(model: InfoAutoencoder, kind: LaterKind, mesh: Mesh, has_cycle: bool) -> Program:
    """`later_step` of (carries, tables, rows, targets, progress, weights), which gathers the rows on the device."""
    step = later_step(model, kind, None, has_cycle)

    def one(carry: Tree, tables: Tree, rows: jax.Array, *others: Any) -> tuple[Tree, Tree]:
        return step(carry, *(table[rows] for table in tables), *others)

    return _for_each_run(one, mesh, (0, TABLE_AXES[kind], 0, 0, None, 0))


def max_group_size(configs: Sequence[Config]) -> int:
    """How many runs of these configurations, which share their programs, the local devices can hold at once."""
    devices, size = jax.local_devices(), len(configs)
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")  # the CPU has none
    while limit is not None and size > len(devices) and 2 * memory_estimate(configs[:size], len(devices)) > limit:
        size -= len(devices)
    return size


def memory_estimate(configs: Sequence[Config], num_devices: int = 1) -> int:
    """Roughly how many bytes each device needs to train a group; XLA takes between half and twice as much.

    Counted are the images, and for each run its state, its gradients, and what its backward pass needs of the forward.
    """
    config = configs[0]
    splits, cycle_weight = load_splits(config.data), config.train.cycle_weight
    model, images, labels = build_model(config, splits), splits.train.images, splits.train.labels
    state = jax.eval_shape(lambda: init_state(model, 0))
    batch = jax.ShapeDtypeStruct((config.train.batch_size, *model.image_shape), np.float32)
    classes = jax.ShapeDtypeStruct((config.train.batch_size,), np.int32)

    # The function that this returns holds, as leaves, all that it needs.
    def backward(params: Params, pixels: jax.Array, labels: jax.Array) -> Any:
        return jax.vjp(lambda p: losses(model, p, pixels, labels, jnp.float32(0), cycle_weight)[0], params)[1]

    activations = _bytes(jax.eval_shape(backward, state.params, batch, classes)) - _bytes(state.params)
    if config.refine.epochs:
        # It decodes each latent two or four times and encodes twice; the autoencoder's phase does each once or twice.
        has_cycle = any(config.refine.cycle_weight for config in configs)
        activations *= 1 + has_cycle if cycle_weight else 2 + has_cycle
    each = _bytes(state) + _bytes(state.params) + activations + 4 * len(labels)
    return images.nbytes + labels.nbytes + -(-len(configs) // num_devices) * each


def _bytes(tree: Tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

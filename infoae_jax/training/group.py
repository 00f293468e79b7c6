"""A group of runs trained as one program: vmapped over the runs, each device taking its share of them.

For accelerators, which a single small network leaves idle most of the time. (On the CPU a vmapped convolution is slow,
and runs one after the other are faster.) Every run goes through the same phases as alone (`train_phases`) and leaves
the same run folder; only the steps that they ask for are taken at once. Runs that stand at different steps, as after a
kill, are brought to the same one first: those that are behind take steps until they meet the others.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.config import Config, TrainConfig
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.folder import lock
from infoae_jax.sweeps.trials import Trial, program_key
from infoae_jax.training.autoencoder import epoch_order, gathered_train_step, losses
from infoae_jax.training.fit import (
    Result,
    build_for,
    is_finished,
    log_start,
    prepare_run,
    restore_state,
    signals,
    train_phases,
    unwritten,
)
from infoae_jax.training.run import Phase, Share, Take, own, say
from infoae_jax.training.state import init_state, make_hyper, static_config, traced_weights
from infoae_jax.training.stepper import align_function, refine_function, steps_per_call

# Which tables of a `Take` each run has for itself; the others are the same for all.
_OWN_TABLES = {"align": (True, False, False), "refine": (False, True, False)}


def fit_group(
    configs: Sequence[Config], folders: Sequence[str | Path], devices: Sequence[jax.Device] | None = None
) -> list[Result | Exception]:
    """Trains each of `configs` in its run folder, or goes on where it stopped; as `fit.fit`, but all at once.

    The configurations differ in `trials.TRACED` only. A run has the figures that it would have on one device alone, but
    for rounding. Signals stop all runs, as for `fit`.

    Args:
      devices: which share the runs; all local ones by default.

    Returns:
      what `fit` would return or raise for each: one that diverges or cannot be trained does not stop the others.

    Raises:
      UserError: if the images cannot be loaded.
    """
    if len({program_key(config) for config in configs}) != 1:
        raise ValueError("These configurations do not share a program: see plan.groups.")
    mesh = Mesh(np.array(jax.local_devices() if devices is None else devices), (AXIS,))
    splits = load_splits(configs[0].data)
    with signals() as stopped:
        stop = _Stop(stopped)
        shared: dict[str, Any] = {}
        runs = [
            _run(config, Path(folder), splits, mesh, stop, shared, speaks=i == 0)
            for i, (config, folder) in enumerate(zip(configs, folders, strict=True))
        ]
        try:
            group = _Group(configs, runs, splits, mesh, stop)
            while group.asks:
                group.take_steps()
        finally:
            for run in runs:
                run.close()
        return [dataclasses.replace(o, stopped=stopped(0)) if isinstance(o, Result) else o for o in group.outcomes]


def _run(
    config: Config,
    folder: Path,
    splits: Splits,
    mesh: Mesh,
    stop: Callable[[int], bool],
    shared: dict[str, Any],
    speaks: bool,
) -> Phase[Result]:
    one = Mesh(mesh.devices[:1], (AXIS,))  # for what it computes alone: the first state, latents, figures, pictures
    device = f"{mesh.size} x {mesh.devices[0].device_kind}, in a group"
    with lock(folder), unwritten(folder), contextlib.ExitStack() as files:
        run = prepare_run(config, folder, splits, one, one, stop, device, files)
        run.bar, run.shared = False, shared
        run.say = (lambda text: say(f"{folder.name}: {text}")) if speaks else (lambda text: None)
        start, state = restore_state(run)
        if is_finished(run, start):
            return Result(state, True)
        log_start(run, state, start, device)
        return Result(*(yield from train_phases(run, state)))


class _Stop:
    """Whether to stop, the same for all runs after a step."""

    def __init__(self, stopped: Callable[[int], bool]):
        self._stopped, self._now = stopped, False

    def look(self) -> None:
        self._now = self._stopped(0)

    def __call__(self, at: int) -> bool:
        return self._now


class _Whole:
    """Arrays whose first axis counts slots."""

    def __init__(self, tree: Any):
        self.tree = tree

    @functools.cached_property
    def on_host(self) -> Any:
        return jax.device_get(self.tree)


@dataclasses.dataclass(frozen=True)
class _Slot(Share):
    whole: _Whole
    index: int

    def own(self) -> Any:
        return jax.tree.map(lambda x: x[self.index], self.whole.on_host)

    def block_until_ready(self) -> None:  # `jax.block_until_ready` calls it
        jax.block_until_ready(self.whole.tree)


class _Group:
    """Runs that wait for steps, and those of them that are on the devices now (all that stand at the same step)."""

    def __init__(self, configs: Sequence[Config], runs: list[Phase[Result]], splits: Splits, mesh: Mesh, stop: _Stop):
        self._stop = stop
        self.asks: dict[int, Take] = {}
        self.outcomes: list[Any] = [None] * len(runs)
        self._configs, self._runs, self._splits, self._mesh = configs, runs, splits, mesh
        self._parts, self._everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
        for i in range(len(runs)):
            self._go_on(i, None)
        # Always as many, so that there is one program; those without a run repeat another.
        self._slots = -(-len(self.asks) // mesh.size) * mesh.size
        self._members: list[int] = []  # the run in each slot
        self._whole = _Whole(None)
        self._take: Callable[..., Any]

    def _go_on(self, i: int, answer: Any) -> None:
        self.asks.pop(i, None)
        try:
            self.asks[i] = self._runs[i].send(answer)
        except StopIteration as end:
            self.outcomes[i] = end.value
        except Exception as error:  # whatever it is, the other runs can go on
            self.outcomes[i] = error

    def take_steps(self) -> None:
        """Those runs that are furthest behind take a step, or several."""
        least = min(ask.at for ask in self.asks.values())
        here = [i for i, ask in self.asks.items() if ask.at == least]
        there = {i: self.asks[i].carry for i in here}
        if not all(isinstance(carry, _Slot) and carry.whole is self._whole for carry in there.values()):
            self._gather(here)
        # A slot whose run is gone goes on with the inputs of another; what it computes is not read.
        inputs = [self.asks[i if i in there else here[0]].arguments for i in self._members]
        carry, metrics, *taken = self._take(self._whole.tree, inputs)
        self._whole, metrics = _Whole(carry), _Whole(metrics)
        self._stop.look()
        slots = {run: slot for slot, run in reversed(list(enumerate(self._members)))}
        for i in here:
            self._go_on(i, (_Slot(self._whole, slots[i]), _Slot(metrics, slots[i]), *taken))

    def _gather(self, here: list[int]) -> None:
        """Puts these runs on the devices."""
        self._members = (here + here[:1] * self._slots)[: self._slots]
        asks = [self.asks[i] for i in self._members]
        self._whole = _Whole(self._stacked([own(ask.carry) for ask in asks]))
        kind = asks[0].kind
        make = self._training if kind == "train" else functools.partial(self._later, kind)
        self._take = make(asks)

    def _stacked(self, trees: list[Any]) -> Any:
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(trees)), self._parts)

    def _training(self, asks: list[Take]) -> Callable[..., Any]:
        images, labels = self._splits.train.images, self._splits.train.labels
        configs = [self._configs[i].train for i in self._members]
        model, static = self._model, static_config(configs[0])
        hyper = self._stacked([make_hyper(config, len(labels)) for config in configs])
        images_on, labels_on = jax.device_put((images, labels), self._everywhere)
        make_order = order_program(len(labels), self._mesh)
        per_call = steps_per_call(configs[0], self._mesh.devices[0].platform)
        per_epoch = len(labels) // configs[0].batch_size
        order: Any = None

        def take(state: Any, inputs: list[tuple[int, int]]) -> Any:
            nonlocal order
            at, most = inputs[0]
            if order is None or at % per_epoch == 0:
                order = make_order(state.step, hyper)
            count = per_call if per_call <= most else 1
            program = train_program(model, static, self._mesh, count)
            return *program(state, images_on, labels_on, order, hyper), count

        return take

    def _later(self, kind: str, asks: list[Take]) -> Callable[..., Any]:
        """The alignment and the refinement."""
        configs = [self._configs[i] for i in self._members]
        sections = [config.alignment if kind == "align" else config.refine for config in configs]
        weights = self._stacked([traced_weights(section) for section in sections])
        tables = tuple(
            self._stacked(list(rows)) if own_table else jax.device_put(rows[0], self._everywhere)
            for own_table, rows in zip(
                _OWN_TABLES[kind], zip(*(ask.arguments[0] for ask in asks), strict=True), strict=True
            )
        )
        program = (
            align_program(self._model, self._mesh)
            if kind == "align"
            else refine_program(self._model, self._mesh, any(config.refine.cycle_weight > 0 for config in configs))
        )

        def take(carry: Any, inputs: list[tuple[Any, ...]]) -> Any:
            _, rows, targets, progress = zip(*inputs, strict=True)
            rows_and_targets = jax.device_put((np.stack(rows).astype(np.int32), np.stack(targets)), self._parts)
            return program(carry, tables, *rows_and_targets, np.float32(progress[0]), weights)

        return take

    @functools.cached_property
    def _model(self) -> InfoAutoencoder:
        return build_for(self._configs[0], self._splits)


def _for_each(one: Callable[..., Any], mesh: Mesh, axes: tuple[Any, ...]) -> Callable[..., Any]:
    """`one` for every run, jitted, the first argument donated; `axes`: 0 for what is each run's own, else None."""
    specs = jax.tree.map(lambda axis: P() if axis is None else P(AXIS), axes, is_leaf=lambda axis: axis is None)
    shared = jax.shard_map(jax.vmap(one, in_axes=axes), mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
    return jax.jit(shared, donate_argnums=0)


@functools.lru_cache(16)
def train_program(model: InfoAutoencoder, config: TrainConfig, mesh: Mesh, steps: int) -> Callable[..., Any]:
    """(states, all images, all labels, orders, hypers) -> states, metrics. `config` from `state.static_config`."""
    one = functools.partial(gathered_train_step, model, config, steps=steps)
    return _for_each(one, mesh, (0, None, None, 0, 0))


@functools.lru_cache(16)
def order_program(count: int, mesh: Mesh) -> Callable[..., Any]:
    """(steps, hypers) -> orders."""
    one = functools.partial(epoch_order, num_images=count)
    return jax.jit(jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False))


@functools.lru_cache(16)
def align_program(model: InfoAutoencoder, mesh: Mesh) -> Callable[..., Any]:
    """(carries, (latents, labels, looks), rows, targets, progress, weights) -> carries, metrics."""
    return _of_rows(align_function(model, None), mesh, _OWN_TABLES["align"])


@functools.lru_cache(16)
def refine_program(model: InfoAutoencoder, mesh: Mesh, cycle: bool) -> Callable[..., Any]:
    """(states, (images, latents, labels), rows, targets, progress, weights) -> states, metrics."""
    return _of_rows(refine_function(model, None, cycle), mesh, _OWN_TABLES["refine"])


def _of_rows(function: Callable[..., Any], mesh: Mesh, own_tables: tuple[bool, ...]) -> Callable[..., Any]:
    """The rows are gathered on the device, so that only their numbers are sent there."""

    def one(carry: Any, tables: Any, rows: Any, targets: Any, progress: Any, weights: Any) -> Any:
        return function(carry, *(table[rows] for table in tables), targets, progress, weights)

    return _for_each(one, mesh, (0, tuple(0 if own_table else None for own_table in own_tables), 0, 0, None, 0))


def most_at_once(trials: Sequence[Trial]) -> int:
    """How many of these trials, which share their programs, the local devices have memory to train together."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats() or {}
    most = len(trials)
    while "bytes_limit" in stats and most > len(devices):
        if 2 * memory_estimate(trials[:most], len(devices)) <= stats["bytes_limit"]:
            break
        most -= len(devices)
    return most


def memory_estimate(trials: Sequence[Trial], devices: int = 1) -> int:
    """Roughly how many bytes each of `devices` needs to train a group of trials together.

    The images, and for each run: state, gradients, and what the backward pass needs of the forward one. XLA takes
    between half and twice as much.

    Raises:
      UserError: if the images cannot be loaded.
    """
    config = trials[0].config
    weight = config.train.cycle_weight
    splits = load_splits(config.data)
    model, images, labels = build_for(config, splits), splits.train.images, splits.train.labels
    state = jax.eval_shape(lambda: init_state(model, 0))
    batch = jax.ShapeDtypeStruct((config.train.batch_size, *model.image_shape), np.float32)
    classes = jax.ShapeDtypeStruct((config.train.batch_size,), np.int32)

    def backward(params: Any, pixels: Any, labels: Any) -> Any:
        """A function that holds, as leaves, all that it needs."""
        return jax.vjp(lambda p: losses(model, p, pixels, labels, jnp.float32(0), weight)[0], params)[1]

    activations = _bytes(jax.eval_shape(backward, state.params, batch, classes)) - _bytes(state.params)
    if config.refine.epochs:
        # It draws four pictures for each image, or two, and encodes two; the first phase one of each, or two.
        cycle = any(trial.config.refine.cycle_weight for trial in trials)
        activations *= 1 + cycle if weight else 2 + cycle
    each = _bytes(state) + _bytes(state.params) + activations + 4 * len(labels)
    return images.nbytes + labels.nbytes + -(-len(trials) // devices) * each


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

"""The order of the phases, and the state that they start from."""

import functools

import jax
import numpy as np

from infoae_jax.config import Config
from infoae_jax.models.autoencoder import InfoAutoencoder, fresh_variables
from infoae_jax.training.alignment import ALIGNMENT
from infoae_jax.training.autoencoder import AUTOENCODER
from infoae_jax.training.phase import Phase, Span
from infoae_jax.training.refinement import REFINEMENT
from infoae_jax.training.state import PhaseName, TrainState
from infoae_jax.types import OptState, Params

PHASES = AUTOENCODER, ALIGNMENT, REFINEMENT


def schedule(config: Config, num_images: int, num_devices: int = 1) -> list[tuple[Phase, Span]]:
    """The phases of a training, and when each takes its steps; `num_devices` share each batch."""
    spans, first, epochs_before = [], 0, 0
    for phase in PHASES:
        if epochs := phase.epochs(config):
            # The alignment takes as many latents as configured, or all there are, but a multiple of the devices.
            size = min(getattr(phase.section(config), "batch_size", config.train.batch_size), num_images)
            size = max(size // num_devices, 1) * num_devices
            spans.append((phase, Span(first, num_images // size, epochs, size, epochs_before)))
            first, epochs_before = spans[-1][1].last, epochs_before + epochs
    return spans


def init_state(model: InfoAutoencoder, config: Config, statistics: Params | None = None) -> TrainState:
    """The state before the first step, on the host; it follows from the seed and the `pixel_statistics`."""
    optimizers = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), _optimizer_shapes(model))  # all begin at 0
    sums = {p.name: dict.fromkeys(p.metrics, np.zeros((), np.float32)) for p in PHASES if p.name in optimizers}
    variables = fresh_variables(model, config.train.seed)
    variables = variables | {"constants": variables["constants"] | (statistics or {})}
    return TrainState(np.zeros((), np.int32), variables, optimizers, sums)


@functools.lru_cache(8)  # as the trials of a sweep have the same
def _optimizer_shapes(model: InfoAutoencoder) -> dict[PhaseName, OptState]:
    params = fresh_variables(model, 0)["params"]
    phases = [phase for phase in PHASES if set(phase.trains) <= params.keys()]
    return {p.name: jax.eval_shape(p.init_optimizer, {name: params[name] for name in p.trains}) for p in phases}

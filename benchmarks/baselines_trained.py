"""Other methods around our encoder and decoder: the same layers, size of the latent, batches and passes over images.

Each is a loss (`RECIPES`); its authors' own networks, data and lengths of training are another matter. The decoder gets
the label itself, which is more than a code of the class. In 'cycle' and 'y' a weight of 1 means the authors' own; those
of the others were chosen here, since they depend on how errors are scaled and how large a latent is.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray

from benchmarks.baselines_maps import FitMap
from benchmarks.timing import median_ms
from infoae_jax.config import Config, ModelConfig
from infoae_jax.data.dataset import Dataset
from infoae_jax.devices.batching import make_batched, model_method
from infoae_jax.devices.collective import mean_over
from infoae_jax.devices.compiling import compiler_options
from infoae_jax.devices.mesh import AXIS
from infoae_jax.evaluation.metrics import Images, Labels, Latents, System
from infoae_jax.files import write_atomically
from infoae_jax.images.pixels import pixel_statistics, to_float
from infoae_jax.models.autoencoder import ContentClassifier, Decoder, Encoder, into_ball
from infoae_jax.models.initial import draw
from infoae_jax.training.optimizer import cross_entropy, scheduled_rate, update
from infoae_jax.training.stream import shuffled
from infoae_jax.types import OptState, Params

NO_CLASS = -1  # a label for decoders that are told none


class Networks(nn.Module):
    """What the methods are made of; each uses some. Like ours, they see standardised pixels."""

    config: ModelConfig
    image_shape: tuple[int, int, int]
    num_classes: int
    outputs: int  # of the encoder: the latent, and what a method reads besides
    pixel_mean: tuple[float, ...]  # of each channel
    pixel_deviation: float

    def setup(self) -> None:
        c = self.config
        self.encoder = Encoder(self.outputs, c.hidden, c.filters, c.leak, "float32")
        self.decoder = Decoder(self.image_shape, c.hidden, c.filters, c.decoder, c.leak, "float32")
        self.adversary = [nn.Dense(c.adversary_hidden), nn.Dropout(0.3), nn.Dense(self.num_classes, name="out")]
        self.reader = ContentClassifier(self.num_classes, "float32")

    def __call__(self, images: Float[Array, "b h w c"]) -> None:
        """All of them once, for `init`."""
        z = self.encode(images)[:, : self.config.bottleneck]
        self.decode(z, jnp.zeros(len(z), jnp.int32)), self.attack(z), self.read(images)

    def encode(self, images: Float[Array, "b h w c"]) -> Float[Array, "b o"]:
        return self.encoder(self._standardised(images))

    def decode(self, z: Float[Array, "b z"], labels: Int[Array, " b"]) -> Float[Array, "b h w c"]:
        standardised = self.decoder(z, jax.nn.one_hot(labels, self.num_classes))
        return standardised * self.pixel_deviation + self._mean()

    def attack(self, z: Float[Array, "b z"], train: bool = False) -> Float[Array, "b n"]:
        """The adversary's logits; the dropout of Fader networks."""
        hidden, dropout, out = self.adversary
        return out(dropout(nn.relu(hidden(z)), deterministic=not train))

    def read(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        """Logits of the class of images, by a network that shares nothing with the others."""
        return self.reader(self._standardised(images))

    def _standardised(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return (to_float(images) - self._mean()) / self.pixel_deviation

    def _mean(self) -> Float[Array, "1 1 1 c"]:
        return jnp.array(self.pixel_mean)[None, None, None]


class Batch(NamedTuple):
    """What a loss is computed of, besides the parameters."""

    images: Float[Array, "b h w c"]
    labels: Int[Array, " b"]
    key: PRNGKeyArray  # differs from step to step
    progress: Float[Array, ""]  # share of the training that is done, from 0 to 1
    weight: Float[Array, ""]  # of the method's own terms


def _call(model: Networks, params: Params, method: str, *args: Any, **options: Any) -> Any:
    return model.apply({"params": params}, *args, method=method, **options)


def _mean_and_deviation(raw: Float[Array, "b o"]) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
    mean, log_variance = jnp.split(raw, 2, axis=1)
    return mean, jnp.exp(log_variance / 2)


def plain_loss(model: Networks, params: Params, batch: Batch, label: bool = True) -> Float[Array, ""]:
    """Reconstruction; and the reader learns to read, for maps of latents that depend on the class."""
    labels = batch.labels if label else jnp.full_like(batch.labels, NO_CLASS)
    decoded = _call(model, params, "decode", _call(model, params, "encode", batch.images), labels)
    reading, _ = cross_entropy(_call(model, params, "read", batch.images), batch.labels)
    return jnp.mean((decoded - batch.images) ** 2) + reading


def variational_loss(model: Networks, params: Params, batch: Batch) -> Float[Array, ""]:
    """Kingma & Welling 2014, Sohn et al. 2015: reconstruction of a sample, and the sample's cost in nats per pixel.

    With a weight of w this is the bound for pixels with a normal noise of variance w / 2.
    """
    mean, deviation = _mean_and_deviation(_call(model, params, "encode", batch.images))
    z = mean + deviation * jax.random.normal(batch.key, mean.shape)
    decoded = _call(model, params, "decode", z, batch.labels)
    nats = jnp.sum(mean**2 + deviation**2 - 1 - 2 * jnp.log(deviation), axis=1).mean() / 2
    return jnp.mean((decoded - batch.images) ** 2) + batch.weight * nats / batch.images[0].size


def cycle_loss(model: Networks, params: Params, batch: Batch) -> Float[Array, ""]:
    """Jha et al. 2018: a conditional VAE, and latents drawn at random, decoded with two classes, must be found again.

    Their weights: 2 of the reconstruction, 3 of the nats, 10 of the second cycle, which trains the encoder alone
    (there by an optimiser of its own).
    """
    sampling, drawing = jax.random.split(batch.key)
    forward = variational_loss(model, params, batch._replace(key=sampling, weight=1.5 * batch.weight))
    z = jax.random.normal(drawing, (len(batch.labels), model.config.bottleneck))
    pair = (_call(model, params, "decode", z, labels) for labels in (batch.labels, jnp.roll(batch.labels, 1)))
    again = [_call(model, params, "encode", jnp.clip(jax.lax.stop_gradient(images), 0, 1)) for images in pair]
    first, second = (_mean_and_deviation(raw)[0] for raw in again)
    return forward + 5 * batch.weight * jnp.mean(jnp.abs(first - second))


def y_autoencoder_loss(model: Networks, params: Params, batch: Batch) -> Float[Array, ""]:
    """Patacchiola et al. 2020: images decoded with their class and with a random one are encoded again.

    Both must give the same latent, and the second the class it was decoded with, which the encoder reads. Its latent is
    between 0 and 1.
    """
    size = model.config.bottleneck

    def encode(images: Array) -> tuple[Array, Array]:
        raw = _call(model, params, "encode", images)
        return jax.nn.sigmoid(raw[:, :size]), raw[:, size:]

    z, logits = encode(batch.images)
    random = jax.random.randint(batch.key, batch.labels.shape, 0, model.num_classes)
    left, right = (_call(model, params, "decode", z, labels) for labels in (batch.labels, random))
    (z_left, _), (z_right, logits_right) = (encode(jnp.clip(images, 0, 1)) for images in (left, right))
    explicit, _ = cross_entropy(logits_right, random)
    implicit = jnp.sqrt(jnp.sum((z_left - z_right) ** 2, axis=1) + 1e-12).mean()
    reading, _ = cross_entropy(logits, batch.labels)
    return jnp.mean((left - batch.images) ** 2) + reading + batch.weight * (explicit + implicit)


def fader_loss(model: Networks, params: Params, batch: Batch) -> Float[Array, ""]:
    """Lample et al. 2017: the encoder makes the adversary read some other class; the weight rises until half-time.

    The latent is within a ball, so that its scale is no way out.
    """
    dropping, choosing = jax.random.split(batch.key)
    z = into_ball(_call(model, params, "encode", batch.images))
    decoded = _call(model, params, "decode", z, batch.labels)
    seen = _call(model, params, "attack", jax.lax.stop_gradient(z), True, rngs={"dropout": dropping})
    other = (batch.labels + jax.random.randint(choosing, batch.labels.shape, 1, model.num_classes)) % model.num_classes
    fooled, _ = cross_entropy(_call(model, jax.lax.stop_gradient(params), "attack", z), other)
    weight = batch.weight * jnp.minimum(2 * batch.progress, 1)
    return jnp.mean((decoded - batch.images) ** 2) + cross_entropy(seen, batch.labels)[0] + weight * fooled


class Setting(NamedTuple):
    """What is tuned."""

    learning_rate: float
    weight: float


class Recipe(NamedTuple):
    """A method.

    Attributes:
      loss: of a model, its parameters and a batch; its gradient trains all networks at once.
      code: what the encoder returns to the latent that the decoder gets; of random ones the mean.
      settings: those to try.
      extra: outputs of the encoder besides the latent, given the latent's size and the number of classes.
      label: whether the decoder is told the class.
    """

    loss: Callable[[Networks, Params, Batch], Float[Array, ""]]
    code: Callable[[Float[Array, "b o"], int], Float[Array, "b z"]]
    settings: tuple[Setting, ...]
    extra: Callable[[int, int], int] = lambda size, classes: 0
    label: bool = True


def _first(raw: Float[Array, "b o"], size: int) -> Float[Array, "b z"]:
    return raw[:, :size]


def _settings(*weights: float) -> tuple[Setting, ...]:
    """Each weight at our learning rate, and the first of them at half of it, too."""
    return Setting(2e-3, weights[0]), *(Setting(4e-3, weight) for weight in weights)


RECIPES = {
    "ordinary": Recipe(functools.partial(plain_loss, label=False), _first, _settings(0)[1:], label=False),
    "conditional": Recipe(plain_loss, _first, _settings(0)),
    "variational": Recipe(variational_loss, _first, _settings(1, 0.5, 2), lambda size, _: size),
    "cycle": Recipe(cycle_loss, _first, _settings(0.3, 0.1, 1), lambda size, _: size),
    "y": Recipe(
        y_autoencoder_loss,
        lambda raw, size: jax.nn.sigmoid(raw[:, :size]),
        _settings(0.01, 0.003, 0.03),
        lambda _, classes: classes,
    ),
    "fader": Recipe(fader_loss, lambda raw, size: into_ball(raw), _settings(0.05, 0.01, 0.2)),
}


def build_networks(recipe: Recipe, config: Config, data: Dataset) -> Networks:
    num_classes, size = len(data.class_names), config.model.bottleneck
    height, width, channels = data.images.shape[1:]
    statistics = pixel_statistics(data.images)
    return Networks(
        config.model,
        (height, width, channels),
        num_classes,
        size + recipe.extra(size, num_classes),
        tuple(statistics["pixel_mean"].ravel().tolist()),
        float(statistics["pixel_deviation"]),
    )


def train(recipe: Recipe, config: Config, data: Dataset, setting: Setting, seed: int, mesh: Mesh) -> Params:
    """Trains a method: Adam, with the schedule of our first phase."""
    epochs, size = config.train.epochs, config.train.batch_size // mesh.size * mesh.size
    state, step, put = _begin(recipe, config, data, seed, mesh)
    key, per_epoch = jax.random.key(seed), len(data) // size
    for epoch in range(epochs):
        order = shuffled(seed, epoch + 1, len(data))[: per_epoch * size].reshape(per_epoch, size)
        for i, chosen in enumerate(order):
            now = np.array([epoch * per_epoch + i, epochs * per_epoch], np.int32)
            # Awaited, as XLA deadlocks on several CPU devices if it holds many calls.
            state = jax.block_until_ready(step(state, *put(chosen), key, now, np.array(setting, np.float32)))
    found: Params = jax.device_get(state[0])
    return found


def seconds_per_epoch(recipe: Recipe, config: Config, data: Dataset, mesh: Mesh, repeats: int = 20) -> float:
    """How long an epoch takes: the median of some steps, compiled before, times their number."""
    size = config.train.batch_size // mesh.size * mesh.size
    state, step, put = _begin(recipe, config, data, 0, mesh)
    batch, setting = put(np.arange(size)), np.array(recipe.settings[0], np.float32)

    def take() -> tuple[Params, OptState]:
        nonlocal state
        state = step(state, *batch, jax.random.key(0), np.array([0, 1], np.int32), setting)
        return state

    return len(data) // size * median_ms(take, repeats) / 1e3


def _begin(recipe: Recipe, config: Config, data: Dataset, seed: int, mesh: Mesh) -> tuple[Any, Any, Any]:
    """The first state, the function that takes a step, and the one that puts a batch of rows on the devices."""
    model, rows = build_networks(recipe, config, data), NamedSharding(mesh, P(AXIS))
    params = initial_params(model, seed)
    state = jax.device_put((params, optax.adam(0.0).init(params)), NamedSharding(mesh, P()))
    return (
        state,
        _program(model, recipe.loss, config.train.learning_rate_schedule, mesh),
        lambda chosen: jax.device_put((data.images[chosen], data.labels[chosen].astype(np.int32)), rows),
    )


def initial_params(model: Networks, seed: int) -> Params:
    """A pure function of the seed, drawn as those of our model are."""
    example = jnp.zeros((1, *model.image_shape))
    params: Params = draw(jax.eval_shape(model.init, jax.random.key(0), example), seed)["params"]
    return params


@functools.lru_cache(32)
def _program(
    model: Networks, loss: Callable[..., Array], schedule: str, mesh: Mesh
) -> Callable[..., tuple[Params, OptState]]:
    """A step of Adam, the batch shared by the devices."""

    def step(
        state: tuple[Params, OptState],
        images: Array,
        labels: Int[Array, " b"],
        key: PRNGKeyArray,
        now: Int[Array, "2"],  # step and number of steps
        setting: Float[Array, "2"],
    ) -> tuple[Params, OptState]:
        (params, moments), progress = state, now[0] / now[1]
        own = jax.random.fold_in(jax.random.fold_in(key, now[0]), jax.lax.axis_index(AXIS))
        batch = Batch(to_float(images), labels, own, progress, setting[1])
        gradient = mean_over(jax.grad(lambda p: loss(model, p, batch))(params), AXIS)
        rate = scheduled_rate(schedule, {"learning_rate": setting[0], "progress": progress, "total_steps": now[1]})
        return update(optax.adam(rate), gradient, moments, params)

    shared = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS), P(), P(), P()), out_specs=P(), check_vma=False
    )
    return jax.jit(shared, donate_argnums=0, compiler_options=compiler_options("steps"))


def trained_system(
    recipe: Recipe,
    config: Config,
    data: Dataset,
    params: Params,
    mesh: Mesh,
    sampled: bool = False,
    fit_map: FitMap | None = None,
) -> System:
    """The system that a training has led to.

    Args:
      data: what it was trained on.
      sampled: give the decoder a sample of a random latent, not its mean; the noise is new in each call.
      fit_map: fits a map of latents to those of `data`.
    """
    model = build_networks(recipe, config, data)
    size, pixels, rng = config.model.bottleneck, data.images.shape[1] * data.images.shape[2], np.random.default_rng(0)
    encode_raw, decode_raw, read = (
        functools.partial(make_batched(model_method(model, name), mesh, pixels), {"params": params})
        for name in ("encode", "decode", "read")
    )

    def encode(images: Images) -> Latents:
        raw = encode_raw(images)
        z = np.asarray(recipe.code(jnp.asarray(raw), size))
        if sampled:
            z = z + np.exp(raw[:, size:] / 2) * rng.standard_normal(z.shape, np.float32)
        return z

    def decode(z: Latents, labels: Labels) -> Float[np.ndarray, "n h w c"]:
        return decode_raw(z, labels if recipe.label else np.full_like(labels, NO_CLASS))

    if fit_map is None:
        return System(encode, decode)
    fitted = fit_map(encode(data.images), data.labels)
    return System(
        lambda images: fitted.forward(encode(images), read(images).argmax(1)),
        lambda z, labels: decode(fitted.back(z, labels), labels),
    )


def load_or_train(
    path: Path, recipe: Recipe, config: Config, data: Dataset, setting: Setting, seed: int, mesh: Mesh
) -> Params:
    """The parameters in the file, or else trains and keeps them there."""
    if not path.exists():
        params = train(recipe, config, data, setting, seed, mesh)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, flax.serialization.msgpack_serialize(params))
    found: Params = flax.serialization.msgpack_restore(path.read_bytes())
    return found

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import infoae_jax
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import to_float
from infoae_jax.inference import run_data
from infoae_jax.inference.styles import FILE
from infoae_jax.models import autoencoder
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, lock, open_run

LABELS = np.array([1, 2, 3], np.int32)


@pytest.fixture(autouse=True)
def quickly(one_device):
    """`test_batched` has several devices."""


@pytest.fixture(scope="module")
def trained(untrained):
    first = jax.local_devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: first)
        return infoae_jax.load(untrained)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def apply(trained):
    """The model's methods, without batches and devices."""
    compiled = jax.jit(trained.module.apply, static_argnames="method")
    return lambda *rows, method: np.asarray(compiled(trained.variables, *rows, method=method))


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- load -------------------------------------------------------------------------------------------------------------


def test_load_gives_the_newest_or_an_older_checkpoint_and_what_the_run_says(untrained, trained):
    newest, older = trained.variables, infoae_jax.load(untrained, 3).variables
    for variables, step in ((newest, 8), (older, 3)):
        with Checkpoints(untrained) as checkpoints:
            saved = checkpoints.restore(jax.eval_shape(lambda p: p, variables["params"]), step, "params")[1]
        jax.tree.map(np.testing.assert_array_equal, variables["params"], saved)
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, newest, older)))
    assert trained.classes == tuple("0123456789")
    assert trained.info == infoae_jax.read_info(untrained)
    assert trained.info.config.model.bottleneck == trained.module.bottleneck == 32
    with pytest.raises(UserError, match="no checkpoint of step 12345"):
        infoae_jax.load(untrained, 12345)


def test_load_while_a_training_holds_the_folder(untrained):
    with lock(untrained):
        assert infoae_jax.load(untrained).variables


def test_load_of_what_is_no_run(tmp_path, tiny_config):
    with pytest.raises(UserError, match="not a run folder"):
        infoae_jax.load(tmp_path)
    info = RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "abc")
    open_run(tmp_path, info, "1 x cpu")
    with pytest.raises(UserError, match="no checkpoint yet"):
        infoae_jax.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]  # reading leaves no trace


def test_import_is_light():
    code = """
import json, sys, time
begin = time.process_time()
import infoae_jax
infoae_jax.load, infoae_jax.fit  # what is imported lazily counts too
seconds = time.process_time() - begin  # not of the clock, as other tests run beside this one
print(json.dumps([seconds, [m for m in ("tensorflow", "matplotlib", "torch") if m in sys.modules]]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(result.stdout)
    assert heavy == []
    assert seconds < 2.5


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        infoae_jax.lode  # noqa: B018


def test_the_readmes_python_example_runs(untrained):
    section = (Path(__file__).parents[2] / "README.md").read_text().split("## From Python")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    code = code.replace('"runs/mnist"', repr(str(untrained))).replace("(2, 28, 28, 1)", "(2, 32, 32, 3)")
    names = {}
    exec(code, names)
    assert names["swaps"].shape == (2, 32, 32, 3)
    assert names["z"].shape == (2, 32)
    close(names["again"], np.clip(names["swaps"], 0, 1))
    assert names["every"].shape == (2, 10, 32, 32, 3)
    assert len(names["way"]) == len(names["new"]) == 8
    assert names["near"].rows.shape == (2, 1)


# --- transfer ---------------------------------------------------------------------------------------------------------


def test_transfer_is_the_models_clipped(trained, images, apply):
    found = trained.transfer(images, LABELS)
    close(found.images, np.clip(apply(images, LABELS, method="transfer"), 0, 1))
    assert found.images.dtype == np.float32
    assert found.images.min() == 0  # something was clipped
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.confidence is None


def test_content_by_number_name_or_picture(trained, images):
    expected = trained.transfer(images, LABELS).images
    for content in ([1, 2, 3], ("1", "2", "3"), np.array(["1", "2", "3"]), jnp.array(LABELS), [np.int8(1), "2", 3]):
        np.testing.assert_array_equal(trained.transfer(images, content).images, expected)
    np.testing.assert_array_equal(trained.transfer(images, "3").images, trained.transfer(images, [3, 3, 3]).images)
    read = trained.predict(images[::-1])
    found = trained.transfer(images, images[::-1])
    np.testing.assert_array_equal(found.labels, read.labels)
    np.testing.assert_array_equal(found.confidence, read.confidence)
    np.testing.assert_array_equal(found.images, trained.transfer(images, read.labels).images)


def test_one_goes_with_many(trained, images):
    grid = trained.grid(images, LABELS)
    close(trained.transfer(images[0], LABELS).images, grid[0])
    close(trained.transfer(images, 3).images, grid[:, 2])
    found = trained.transfer(images, images[0])
    assert found.images.shape == (3, 32, 32, 3)
    assert found.confidence.shape == found.labels.shape == (3,)
    with pytest.raises(UserError, match="content are 2, but there must be 1 or 3"):
        trained.transfer(images, [1, 2])
    with pytest.raises(UserError, match="style_images are 2, but there must be 1 or 3"):
        trained.transfer(images[:2], LABELS)


def test_grid_is_every_style_with_every_class(trained, images, apply):
    grid = trained.grid(images)
    assert grid.shape == (3, 10, 32, 32, 3)
    for row in range(3):
        expected = apply(np.repeat(images[row : row + 1], 10, 0), np.arange(10), method="transfer")
        close(grid[row], np.clip(expected, 0, 1))


def test_known_classes_of_style_images_are_used(trained, images, apply):
    read = trained.predict(images).labels
    other = ((read + 1) % 10).astype(np.int32)
    close(trained.encode(images, other), apply(images, other, method="encode"))
    close(trained.encode(images), apply(images, read, method="encode"))
    assert abs(trained.encode(images) - trained.encode(images, other)).max() > 1e-4
    expected = trained.decode(trained.encode(images, other), LABELS)
    np.testing.assert_array_equal(trained.transfer(images, LABELS, style_labels=other).images, expected)


def test_read_gives_the_classifiers_probability(trained, images, apply):
    odds = np.asarray(jax.nn.softmax(apply(images, method="classify"), axis=1))
    read = trained.predict(images)
    np.testing.assert_array_equal(read.labels, odds.argmax(1))
    close(read.confidence, odds.max(1))


def test_interpolation_goes_from_one_style_to_the_other(trained, images):
    way = trained.interpolate(images[0], images[1], "4", steps=5)
    ends = trained.transfer(images[:2], 4).images
    assert way.shape == (5, 32, 32, 3)
    close(way[[0, -1]], ends)
    z = trained.encode(images[:2])
    close(way[2], trained.decode(z.mean(0, keepdims=True), 4)[0])


BAD = {
    "a class that is none": (lambda t, x: t.transfer(x, 10), "content is 10, but classes are numbered 0 to 9"),
    "a negative one": (lambda t, x: t.transfer(x, -1), "content is -1"),
    "a name that is none": (lambda t, x: t.transfer(x, "ten"), "'ten', which is neither a class nor a file.* 0, 1"),
    "classes and pictures": (lambda t, x: t.transfer(x, [1, x[0]]), "both classes and pictures"),
    "one in a list": (lambda t, x: t.transfer(x, [1, 2, 11]), r"content\[2\] is 11"),
    "truth": (lambda t, x: t.transfer(x, True), "content is True"),
    "a class as style": (lambda t, x: t.transfer(7, 7), r"style_images is 7 \(int\)"),
    "styles of another length": (lambda t, x: t.decode(np.zeros((1, 3)), 1), r"\[1, 3\], but must be \[N, 32\]"),
    "no styles": (lambda t, x: t.decode(np.zeros((0, 32)), 1), r"\[0, 32\], but must be \[N, 32\], with N 1 or more"),
    "none to sample": (lambda t, x: t.sample(0), "count is 0, but must be 1 or more"),
    "fewer than none": (lambda t, x: t.sample(-2), "count is -2"),
    "labels that are too few": (lambda t, x: t.decode(np.zeros((3, 32)), [1, 2]), "each of the 3 styles"),
    "style labels that are too few": (lambda t, x: t.encode(x, [1, 2]), "each of the 3 style images"),
    "two to start from": (lambda t, x: t.interpolate(x[:2], x[2], 1), "style_a are 2"),
    "no way": (lambda t, x: t.interpolate(x[0], x[1], 1, steps=1), "steps is 1"),
    "more neighbours than there are": (lambda t, x: t.nearest(x, x, k=4), "k is 4, but must be from 1 to 3"),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_what_cannot_work_is_named(trained, images, call, says):
    with pytest.raises(UserError, match=says):
        call(trained, images)


def test_each_size_of_batch_is_traced_once(untrained, images, monkeypatch):
    traced, unit_interval = [], to_float

    def count(x):
        if isinstance(x, jax.core.Tracer):
            traced.append(len(x))
        return unit_interval(x)

    monkeypatch.setattr(autoencoder, "to_float", count)
    trained = infoae_jax.load(untrained)
    traced.clear()  # of `load`, which asks for shapes
    for n in (1, 2, 3, 1, 3):
        trained.transfer(images[:n], LABELS[:n])
    assert traced == [1, 1, 2, 2, 4, 4]  # `encode` embeds and classifies
    trained.grid(images)
    trained.interpolate(images[0], images[1], 5, steps=32)
    assert len(traced) == 6  # only the decoder has met other sizes


def test_model_works_in_jit_vmap_and_grad_of_ones_own(trained, images, apply):
    def swap(image, label):
        return trained.module.apply(trained.variables, image[None], label[None], method="transfer")[0]

    one_by_one = jax.jit(jax.vmap(swap))(images / np.float32(255), LABELS)
    close(one_by_one, apply(images, LABELS, method="transfer"))
    z = jnp.asarray(trained.encode(images))
    slope = jax.jit(
        jax.grad(lambda z: trained.module.apply(trained.variables, z, LABELS, method="decode").astype(float).mean())
    )(z)
    step = 1e-2 * slope / jnp.linalg.norm(slope)
    decode = [apply(z + sign * step, LABELS, method="decode").mean(dtype=np.float64) for sign in (1, -1)]
    assert (decode[0] - decode[1]) / 2 == pytest.approx(float(jnp.vdot(slope, step)), rel=0.05)


def test_a_negative_of_what_the_model_knows_is_warned_about(untrained):
    trained = infoae_jax.load(untrained)
    trained.__dict__["ground"] = 0.02  # as of a model of white digits on black
    paper = np.full((2, 32, 32, 3), 255, np.uint8)
    paper[:, 10:20, 15:17] = 0
    with pytest.warns(
        UserWarning, match=r"2 of 2 style_images have a border of brightness 1\.00.*own pictures 0\.02.*invert"
    ):
        trained.encode(paper)
    trained.encode(255 - paper)  # no warning
    with pytest.warns(UserWarning, match="1 of 3"):
        trained.encode([255 - paper[0], 255 - paper[0], paper[0]])


def test_ground_is_the_brightness_of_drawn_borders(untrained, monkeypatch):
    assert infoae_jax.load(untrained).ground is None  # it draws nothing yet
    drawn = np.full((10, 32, 32, 3), 0.25, np.float32)
    drawn[:, 8:24, 8:24] = 1
    monkeypatch.setattr(infoae_jax.Model, "decode", lambda *_: drawn)
    assert infoae_jax.load(untrained).ground == 0.25


# --- kept styles ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(untrained, tmp_path):
    return shutil.copytree(untrained, tmp_path / "copy", ignore=shutil.ignore_patterns(FILE))


def test_styles_of_training_images_are_kept_with_the_run(copy, cache, monkeypatch):
    trained = infoae_jax.load(copy)
    splits = load_splits(trained.info.config.data)
    assert trained.style_bank.z.shape == (256, 32)
    first = trained.style_bank
    order = np.random.default_rng(0).permutation(256)
    close(first.z[:5], trained.encode(splits.train.images[order[:5]], splits.train.labels[order[:5]]))
    np.testing.assert_array_equal(first.labels, splits.train.labels[order])

    def lost(*_, **__):
        raise UserError("There are no data any more.")

    monkeypatch.setattr(run_data, "load_splits", lost)
    np.testing.assert_array_equal(infoae_jax.load(copy).style_bank.z, first.z)  # from the file
    with pytest.raises(UserError, match=r"not yet kept with .*no data any more"):
        infoae_jax.load(copy, 3).kept  # noqa: B018 (those of another checkpoint are not taken for its own)
    (copy / FILE).write_bytes((copy / FILE).read_bytes()[:-100])
    with pytest.raises(UserError, match=r"not yet kept with .*no data any more"):
        infoae_jax.load(copy).kept  # noqa: B018


def test_styles_are_made_of_data_where_they_are_now_and_never_of_a_download(copy, monkeypatch):
    asked = []

    def lost(config, prepare=True):
        asked.append((config.dir, prepare))
        raise UserError("There are no data any more.")

    monkeypatch.setattr(run_data, "load_splits", lost)
    with pytest.raises(UserError, match="no data any more"):
        infoae_jax.load(copy, data_dir="moved").kept  # noqa: B018
    assert asked == [("moved", False)]


def test_styles_of_other_images_are_not_made(copy, monkeypatch):
    record = json.loads((copy / "config.json").read_text())
    record["data"]["fingerprint"] = "another"
    (copy / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="not those that the run was trained on"):
        infoae_jax.load(copy).sample(1)


def test_nearest_finds_itself_first(trained, images):
    near = trained.nearest(images[1], among=images, k=2)
    assert near.rows.shape == near.distances.shape == (1, 2)
    assert near.rows[0, 0] == 1
    assert near.distances[0, 0] == pytest.approx(0, abs=1e-3)
    assert near.distances[0, 1] > 0.01


def test_sample_is_seeded_and_drawable(trained):
    one, two, other = trained.sample(7, seed=1), trained.sample(7, seed=1), trained.sample(7, seed=2)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert trained.decode(one, 3).shape == (7, 32, 32, 3)

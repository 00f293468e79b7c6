import functools
import io
import json
import pickle
import zipfile

import jax
import numpy as np
import pytest

from configs import rendered
from infoae_jax.errors import UserError
from infoae_jax.inference import npz
from infoae_jax.inference.npz import read_npz, write_npz
from tests.bundles import random_bundle

SHAPE = (8, 12, 1)


@pytest.fixture(scope="module")
def bundle():
    values = rendered.get_config("tiny")
    values.data.name, values.data.dir, values.data.cache_dir = "folder", "/home/someone/images", "/home/someone/cache"
    values.data.channels = 1
    values.model.couplings, values.model.bottleneck = 2, 6
    return random_bundle(values, SHAPE, ("a", "b", "c"))


def description(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("description.json"))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 5e-3), ("int8", 5e-2)])
def test_arrays_come_back(bundle, tmp_path, dtype, error):
    latents = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    pixels = np.arange(2 * np.prod(SHAPE), dtype=np.uint8).reshape(2, *SHAPE)
    examples = {"examples/images": pixels, "examples/labels": np.array([2, 0], np.int32)}
    extras = {"styles/z": latents, "styles/labels": np.zeros(4, np.int32), **examples}
    bundle = bundle._replace(extras=extras, figures={"mse": 0.25})
    out = tmp_path / "deep" / "model.npz"
    write_npz(out, bundle, dtype)
    found = read_npz(out)
    rng = np.random.default_rng(5)
    images, labels = rng.random((5, *SHAPE), np.float32), rng.integers(0, 3, 5).astype(np.int32)
    module, variables = bundle.model.module, bundle.model.variables
    transfer = jax.jit(functools.partial(module.apply, method="transfer"))
    assert found.model.module == module
    missing = {name: variables["params"][name] for name in ("adversary", "alignment_helpers")}
    filled = found.model.variables | {"params": found.model.variables["params"] | missing}  # one program serves all
    mine, theirs = transfer(variables, images, labels), transfer(filled, images, labels)
    assert np.abs(mine - theirs).max() < error
    assert (np.abs(mine - theirs).max() == 0) == (dtype == "float32")
    np.testing.assert_array_equal(found.extras["examples/images"], extras["examples/images"])
    np.testing.assert_allclose(found.extras["styles/z"], latents, atol=1e-6 if dtype == "float32" else 2e-3)
    assert found.figures == {"mse": 0.25}
    assert found.model.classes == ("a", "b", "c")
    said = description(out)
    assert "someone" not in json.dumps(said)
    assert not any(part in name for name in said["arrays"] for part in ("adversary", "alignment_helpers"))
    kinds = {signature["dtype"] for signature in said["arrays"].values()}
    floats = {"float32": {"float32"}, "float16": {"float16"}, "int8": {"float16", "float32", "int8"}}[dtype]
    assert kinds == floats | {"uint8", "int32"}
    again = tmp_path / "again.npz"
    write_npz(again, bundle, dtype)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("name", ["params/image_decoder/Conv_0/kernel", "params/alignment/couplings/layers/x/kernel"])
def test_int8_scales_each_layer_and_channel_apart(name):
    """So one with large weights does not round another's away."""
    sizes = 10.0 ** np.arange(-3, 3)
    values = (
        np.random.default_rng(0).uniform(-1, 1, (3, 256, 6)) * sizes * np.array([[[1]], [[1e3]], [[1e-3]]])
    ).astype(np.float32)
    values = values[:, None] if "Conv" in name else values
    stored = dict(npz._encoded(name, values, "int8"))
    assert stored[name].dtype == np.int8
    step = np.abs(values).max(axis=-2, keepdims=True) / 127
    assert (np.abs(npz._decoded(name, stored) - values) <= 0.501 * step).all()


def test_arrays_are_read_by_numpy_alone(bundle, tmp_path):
    write_npz(tmp_path / "model.npz", bundle)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        bias = archive["params/image_decoder/Dense_0/bias"]
        said = json.loads(archive["description.json"])
    np.testing.assert_array_equal(bias, bundle.model.variables["params"]["image_decoder"]["Dense_0"]["bias"])
    assert said["latent"]["size"] == 6
    assert said["arrays"]["params/image_decoder/Dense_0/bias"] == {"shape": list(bias.shape), "dtype": "float32"}


@pytest.fixture(scope="module")
def members(bundle, tmp_path_factory):
    """Every member of a sound file by name, in bytes."""
    out = tmp_path_factory.mktemp("members") / "model.npz"
    write_npz(out, bundle)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it ran",))


def pickled(members):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    return {**members, "params/image_decoder/Dense_0/bias.npy": buffer.getvalue()}


def other_value(members):
    name = "params/image_decoder/Dense_0/bias.npy"
    return {**members, name: members[name][:-4] + b"\0\0\x80\x3f"}


def changed(members, **changes):
    return {**members, "description.json": json.dumps(json.loads(members["description.json"]) | changes).encode()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (pickled, "bias.npy is object"),
        (other_value, "checksum"),
        (lambda m: changed(m, classes=["x"]), "checksum"),
        (lambda m: changed(m, format=99), "its format is 99, not 3"),
        (lambda m: {k: v for k, v in m.items() if k != "description.json"}, "description.json"),
        (lambda m: {**m, "description.json": b"{"}, "damaged"),
        (lambda m: {**m, "description.json": b"[" * 100_000}, "damaged"),
        (lambda m: {k: v for k, v in m.items() if "Dense_0/bias" not in k}, "damaged"),
        (lambda m: {**m, "params/image_decoder/Dense_0/bias.npy": b"\x93NUMPY"}, "damaged"),
    ],
)
def test_a_broken_file_is_explained_and_nothing_runs(members, tmp_path, change, reason):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=reason) as error:
        read_npz(path)
    assert "model.npz" in str(error.value)


@pytest.mark.parametrize(
    ("z", "labels"),
    [
        (np.zeros((2, 5), np.float32), np.zeros(2, np.int32)),
        (np.zeros((0, 6), np.float32), np.zeros(0, np.int32)),
        (np.full((2, 6), np.nan, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 6), np.float32), np.zeros(3, np.int32)),
        (np.zeros((2, 6), np.float32), np.full(2, 3, np.int32)),
        (np.zeros((2, 6), np.float32), np.full(2, 0.5, np.float32)),
    ],
)
def test_a_style_bank_of_another_model_is_refused(bundle, tmp_path, z, labels):
    write_npz(tmp_path / "model.npz", bundle._replace(extras={"styles/z": z, "styles/labels": labels}))
    with pytest.raises(UserError, match=r"model\.npz' is damaged.*do not fit its model\). Export it again"):
        read_npz(tmp_path / "model.npz")


def test_a_file_without_a_style_bank_has_nothing_to_sample_from(bundle, tmp_path):
    write_npz(tmp_path / "model.npz", bundle)
    with pytest.raises(UserError, match="exported without style latents"):
        read_npz(tmp_path / "model.npz").model.sample(1)


def test_parameters_of_another_model_are_refused(bundle, tmp_path):
    other = json.loads(json.dumps(bundle.record))
    other["config"]["model"]["bottleneck"] = 7
    write_npz(tmp_path / "model.npz", bundle._replace(record=other))
    with pytest.raises(UserError, match=r"is damaged.*rotations is \(3, 6, 6\), but must be \(3, 7, 7\)"):
        read_npz(tmp_path / "model.npz")


def test_a_run_in_another_format_is_named(bundle, tmp_path):
    write_npz(tmp_path / "model.npz", bundle._replace(record={**bundle.record, "format": 3}))
    with pytest.raises(UserError, match=r"model\.npz' describes a run in format 3"):
        read_npz(tmp_path / "model.npz")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(bundle, tmp_path, share):
    path = tmp_path / "model.npz"
    write_npz(path, bundle)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"model\.npz' is damaged"):
        read_npz(path)


def test_a_flipped_bit_anywhere_is_noticed(bundle, tmp_path):
    """In the content, that is: the archive's dates and the like may be anything."""
    path = tmp_path / "model.npz"
    write_npz(path, bundle)
    sound = path.read_bytes()
    expected = jax.tree.leaves(read_npz(path).model.variables)
    for at in np.random.default_rng(0).integers(0, len(sound), 40):
        data = bytearray(sound)
        data[at] ^= 1 << int(at % 8)
        path.write_bytes(data)
        try:
            found = jax.tree.leaves(read_npz(path).model.variables)
        except UserError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)), at


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "own.npz"
    with pytest.raises(UserError, match="No such file"):
        read_npz(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(UserError, match="not a file of `infoae export"):
        read_npz(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not a zip file"):
        read_npz(path)
    with pytest.raises(UserError, match="damaged, or not"):
        read_npz(tmp_path)


def test_what_float16_cannot_hold_is_refused(bundle, tmp_path):
    with pytest.raises(UserError, match="float16 cannot hold"):
        write_npz(tmp_path / "x.npz", bundle._replace(extras={"styles/z": np.float32([1e6])}), "float16")
    assert list(tmp_path.iterdir()) == []


# --- Files that check out, but are made to do harm --------------------------------------------------------------------

BIAS, KERNEL = "params/image_decoder/Dense_0/bias", "params/image_decoder/Dense_0/kernel"


def rewrite(path, arrays, said=None):
    """Writes the members again with these arrays and this description, and a checksum that fits."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        stored = {name: np.load(io.BytesIO(archive.read(f"{name}.npy"))) for name in names} | arrays
    said = {k: v for k, v in (said or description(path)).items() if k != "sha256"}
    said["sha256"] = npz._checksum(said, stored)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("description.json", json.dumps(said))
        for name, values in stored.items():
            archive.writestr(f"{name}.npy", npz._npy(values))


def test_what_rewrite_makes_is_read(bundle, tmp_path):
    write_npz(tmp_path / "model.npz", bundle)
    rewrite(tmp_path / "model.npz", {})
    read_npz(tmp_path / "model.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_numbers_that_are_none_are_refused(bundle, tmp_path, value, dtype):
    path = tmp_path / "model.npz"
    write_npz(path, bundle, dtype)
    name = KERNEL if dtype == "float32" else BIAS
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        name = next(n.removesuffix(".npy") for n in names if n.endswith("/scale.npy")) if dtype == "int8" else name
        values = np.load(io.BytesIO(archive.read(f"{name}.npy")))
    values[(0,) * values.ndim] = value
    rewrite(path, {name: values})
    with pytest.raises(UserError, match=r"model\.npz' is damaged.*(infinite or not a number|invalid value)"):
        read_npz(path)


PIXELS, CLASSES = np.zeros((2, *SHAPE), np.uint8), np.zeros(2, np.int32)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (PIXELS, np.array([0, 3], np.int32)),
        (PIXELS, np.array([-1, 0], np.int32)),
        (PIXELS, CLASSES[:1]),
        (PIXELS[:, 1:], CLASSES),
        (np.zeros((10_001, *SHAPE), np.uint8), np.zeros(10_001, np.int32)),
        (PIXELS.astype(np.float32), CLASSES),
        (PIXELS.astype(np.uint16), CLASSES),
    ],
)
def test_examples_of_another_model_are_refused(bundle, tmp_path, images, labels):
    extras = {"examples/images": images, "examples/labels": labels}
    write_npz(tmp_path / "model.npz", bundle._replace(extras=extras))
    with pytest.raises(UserError, match=r"is damaged.*do not fit its model"):
        read_npz(tmp_path / "model.npz")


def test_other_arrays_are_refused(bundle, tmp_path):
    write_npz(tmp_path / "model.npz", bundle._replace(extras={"more": np.zeros(3, np.float32)}))
    with pytest.raises(UserError, match=r"more is \(3,\), but must be None"):
        read_npz(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "data",
    [
        {"image_shape": [8, 12, 10**9]},
        {"image_shape": [8, 12]},
        {"image_shape": [8.0, 12.0, 1.0]},
        {"image_shape": [10**9, 12, 1]},
        {"class_names": ["a"]},
        {"class_names": [1, 2, 3]},
        {"class_names": [str(i) for i in range(50_000)]},
    ],
)
def test_a_description_of_impossible_networks_is_refused(bundle, tmp_path, data):
    path = tmp_path / "model.npz"
    write_npz(path, bundle)
    said = description(path)
    said["run"]["data"] |= data
    rewrite(path, {}, said)
    with pytest.raises(UserError):
        read_npz(path)


@pytest.fixture
def allocated(monkeypatch):
    """The bytes of the arrays that were read."""
    sizes, read = [], npz.read_array

    def noted(*arguments):
        sizes.append((values := read(*arguments)).nbytes)
        return values

    monkeypatch.setattr(npz, "read_array", noted)
    return sizes


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (KERNEL, (9, 4_000_000)),
        (BIAS, (40_000_000,)),
        ("examples/images", (400_000, *SHAPE)),
        ("styles/z", (5_000_000, 6)),
        ("more", (9_000_000,)),
    ],
)
def test_a_small_file_that_stands_for_much_memory_is_refused_before_it_is_taken(
    bundle, tmp_path, allocated, name, shape
):
    path = tmp_path / "model.npz"
    write_npz(path, bundle)
    dtype = np.uint8 if "images" in name else np.float32
    rewrite(path, {name: np.zeros(shape, dtype)})
    assert path.stat().st_size < 2e6
    with pytest.raises(UserError, match=r"model\.npz' is damaged"):
        read_npz(path)
    assert allocated == []


def test_more_than_any_model_has_is_refused_even_if_it_fits(bundle, tmp_path, allocated, monkeypatch):
    write_npz(tmp_path / "model.npz", bundle)
    monkeypatch.setattr(npz, "MAX_BYTES", 100_000)
    with pytest.raises(UserError, match=r"would take .* MB, more than 0"):
        read_npz(tmp_path / "model.npz")
    assert allocated == []
    with pytest.raises(UserError, match=r"The model has . MB, but an export at most 0"):
        write_npz(tmp_path / "again.npz", bundle)
    assert not (tmp_path / "again.npz").exists()


def test_a_header_that_claims_more_than_the_file_holds_is_refused(members, tmp_path, allocated):
    path = tmp_path / "model.npz"
    for claim in ("(2000000000,), ", "(-1, -64), "):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"shape": (64,), "fortran_order": False, "descr": "<f4"})
        data = header.getvalue().replace(b"(64,), ", claim.encode())
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in (members | {f"{BIAS}.npy": data}).items():
                archive.writestr(name, member)
        with pytest.raises(UserError, match="damaged"):
            read_npz(path)
    assert allocated == []


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_unpacked_all_at_once_is_not_opened(members, tmp_path, method):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match="compressed in an unusual way"):
        read_npz(path)


def test_a_description_of_any_length_is_not_read(members, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data if name.endswith(".npy") else data + b" " * 2**25)
    with pytest.raises(UserError, match=r"damaged.*description\.json"):
        read_npz(path)

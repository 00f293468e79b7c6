import functools
import hashlib
import io
import json
import pickle
import re
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

import infoae_jax
from configs import rendered
from infoae_jax.cli.main import main
from infoae_jax.config import parse
from infoae_jax.devices import setup as device_setup
from infoae_jax.errors import UserError
from infoae_jax.inference import run_data
from infoae_jax.inference import stablehlo as stablehlo_module
from infoae_jax.inference.load import model_of_npz
from infoae_jax.inference.npz import NpzModel, read_npz, write_npz
from infoae_jax.inference.stablehlo import FUNCTIONS, read_stablehlo, write_stablehlo
from infoae_jax.inference.styles import FILE, NUM_EXPORTED
from infoae_jax.models.autoencoder import build
from infoae_jax.runs import folder as folder_module
from infoae_jax.runs.folder import parse_record, to_dict

SHAPE = (8, 12, 1)


@pytest.fixture(scope="module")
def trained():
    """A model that need not be trained to be exported, with the record of its run."""
    values = rendered.get_config("tiny")
    values.data.name, values.data.dir, values.data.cache_dir = "folder", "/home/someone/pictures", "/home/someone/cache"
    values.data.channels = 1
    values.model.couplings, values.model.bottleneck = 2, 6
    config = parse(values)
    model = build(config.model, SHAPE, 3)
    # Random numbers, as initialising takes long to compile, and an alignment starts as the identity.
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1, jnp.int32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: rng.normal(0, 1.4 / np.sqrt(max(np.prod(s.shape[:-1]), 50)), s.shape).astype(np.float32), shapes
    )
    record = {
        "format": folder_module.FORMAT,
        "config": json.loads(json.dumps(to_dict(config))),
        "data": {
            "image_shape": list(SHAPE),
            "class_names": ["a", "b", "c"],
            "num_train": 5,
            "num_test": 5,
            "fingerprint": "x",
        },
    }
    return model, variables, record


@pytest.fixture(scope="module")
def programs(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("programs") / "stablehlo"
    write_stablehlo(out, *trained)
    return out


def _rows(count):
    rng = np.random.default_rng(count)
    return rng.random((count, *SHAPE), np.float32), rng.integers(0, 3, count).astype(np.int32)


def test_programs_give_what_the_model_gives_at_any_batch_size(trained, programs):
    model, variables, _ = trained
    functions = read_stablehlo(programs)

    @jax.jit
    def theirs(images, latents, labels):
        call = functools.partial(model.apply, variables)
        return [
            call(images, method="encode"),
            call(latents, labels, method="decode"),
            call(images, labels, method="transfer"),
            call(images, method="classify"),
        ]

    @jax.jit
    def ours(images, latents, labels):
        rows = [(images,), (latents, labels), (images, labels), (images,)]
        return [functions[name](*args) for name, args in zip(FUNCTIONS, rows, strict=True)]

    for count in (1, 5):
        images, labels = _rows(count)
        latents = np.random.default_rng(count).normal(0, 0.3, (count, model.bottleneck)).astype(np.float32)
        for a, b in zip(ours(images, latents, labels), theirs(images, latents, labels), strict=True):
            assert np.abs(b).max() > 0.05
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_programs_are_for_all_platforms_and_described(programs):
    description = json.loads((programs / "description.json").read_text())
    for name in FUNCTIONS:
        program = jax_export.deserialize(bytearray((programs / f"{name}.stablehlo").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        takes = description["functions"][name]["takes"]
        assert [(str(a.dtype), [str(n) for n in a.shape]) for a in program.in_avals] == [
            (v["dtype"], [str(n) for n in v["shape"]]) for v in takes.values()
        ]
    assert description["classes"] == ["a", "b", "c"]
    assert "someone" not in json.dumps(description)


def test_a_damaged_program_is_named(programs, tmp_path):
    broken = shutil.copytree(programs, tmp_path / "broken")
    data = bytearray((broken / "decode.stablehlo").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "decode.stablehlo").write_bytes(data)
    with pytest.raises(UserError, match=r"decode\.stablehlo has another checksum"):
        read_stablehlo(broken)
    (broken / "decode.stablehlo").unlink()
    with pytest.raises(UserError, match=r"damaged, or not a folder.*decode\.stablehlo"):
        read_stablehlo(broken)


@pytest.mark.parametrize("start", [b"", b"\x08\0\0\0", b"\xff" * 8])
def test_a_program_that_is_none_is_named_whatever_its_checksum(programs, tmp_path, start):
    changed = shutil.copytree(programs, tmp_path / "changed")
    program = start + (changed / "encode.stablehlo").read_bytes()[len(start) : 500]
    (changed / "encode.stablehlo").write_bytes(program)
    description = json.loads((changed / "description.json").read_text())
    description["functions"]["encode"]["sha256"] = hashlib.sha256(program).hexdigest()
    (changed / "description.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="damaged, or not a folder"):
        read_stablehlo(changed)


def test_a_program_that_calls_into_the_process_is_not_run(programs, tmp_path):
    changed = shutil.copytree(programs, tmp_path / "changed")
    function = jax.jit(lambda x: jnp.linalg.qr(x)[0])  # calls LAPACK
    program = jax_export.export(function, platforms=["cpu"])(jnp.zeros((3, 3))).serialize()
    (changed / "encode.stablehlo").write_bytes(program)
    description = json.loads((changed / "description.json").read_text())
    description["functions"]["encode"]["sha256"] = hashlib.sha256(program).hexdigest()
    (changed / "description.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"encode\.stablehlo .* outside of its program"):
        read_stablehlo(changed)


def test_a_folder_is_replaced_only_if_asked_and_only_if_it_is_an_export(trained, programs):
    before = {p.name: p.read_bytes() for p in programs.iterdir()}
    with pytest.raises(UserError, match="exists. Choose another --out, or replace it with --force"):
        stablehlo_module._write_folder(programs, dict.fromkeys(before, b"new"), force=False)
    assert {p.name: p.read_bytes() for p in programs.iterdir()} == before
    stablehlo_module._write_folder(programs, before, force=True)
    (programs / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds more than an export"):
        stablehlo_module._write_folder(programs, before, force=True)
    (programs / "mine.txt").unlink()
    assert [p.name for p in programs.parent.iterdir()] == ["stablehlo"]  # nothing temporary is left


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 5e-3), ("int8", 5e-2)])
def test_arrays_come_back(trained, tmp_path, dtype, error):
    model, variables, record = trained
    styles = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    extras = {"styles": styles, "examples/images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)}
    out = tmp_path / "deep" / "model.npz"
    write_npz(out, model, variables, record, dtype, extras, {"note": "hello"})
    saved = read_npz(out)
    images, labels = _rows(5)
    transfer = jax.jit(functools.partial(model.apply, method="transfer"))
    assert saved.model == model
    adversary = {"adversary": variables["params"]["adversary"]}  # so that one program serves all
    mine = transfer(variables, images, labels)
    theirs = transfer({"params": saved.variables["params"] | adversary}, images, labels)
    assert np.abs(mine - theirs).max() < error
    assert (np.abs(mine - theirs).max() == 0) == (dtype == "float32")
    np.testing.assert_array_equal(saved.extras["examples/images"], extras["examples/images"])
    np.testing.assert_allclose(saved.extras["styles"], styles, atol=1e-6 if dtype == "float32" else 2e-3)
    assert saved.description["note"] == "hello"
    assert saved.info.class_names == ("a", "b", "c")
    assert "someone" not in json.dumps(saved.description)
    assert not any("adversary" in name for name in saved.description["arrays"])
    kinds = {how["dtype"] for how in saved.description["arrays"].values()}
    assert kinds == {"float32": {"float32", "uint8"}, "float16": {"float16", "uint8"}}.get(
        dtype, {"float16", "float32", "int8", "uint8"}
    )
    again = tmp_path / "again.npz"
    write_npz(again, model, variables, record, dtype, extras, {"note": "hello"})
    assert again.read_bytes() == out.read_bytes()


def test_arrays_are_read_by_numpy_alone(trained, tmp_path):
    model, variables, record = trained
    write_npz(tmp_path / "model.npz", model, variables, record)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        bias = archive["params/image_decoder/Dense_0/bias"]
        description = json.loads(archive["description.json"])
    np.testing.assert_array_equal(bias, variables["params"]["image_decoder"]["Dense_0"]["bias"])
    assert description["latent"]["size"] == 6


@pytest.fixture(scope="module")
def members(trained, tmp_path_factory):
    """Every member of a sound file by name, in bytes."""
    out = tmp_path_factory.mktemp("members") / "model.npz"
    write_npz(out, *trained)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it ran",))


def _pickled(members):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([_Bomb()], dtype=object), allow_pickle=True)
    return {**members, "params/image_decoder/Dense_0/bias.npy": buffer.getvalue()}


def _other_value(members):
    name = "params/image_decoder/Dense_0/bias.npy"
    return {**members, name: members[name][:-4] + b"\0\0\x80\x3f"}


def _changed(members, **changes):
    return {**members, "description.json": json.dumps(json.loads(members["description.json"]) | changes).encode()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_pickled, "pickle|Object arrays|longer"),
        (_other_value, "checksum"),
        (lambda m: _changed(m, classes=["x"]), "checksum"),
        (lambda m: _changed(m, format=99), "newer version"),
        (lambda m: {k: v for k, v in m.items() if k != "description.json"}, "description.json"),
        (lambda m: {**m, "description.json": b"{"}, "damaged"),
        (lambda m: {**m, "description.json": b"[" * 100_000}, "damaged"),
        (lambda m: {k: v for k, v in m.items() if "Dense_0/bias" not in k}, "damaged"),
        (lambda m: {**m, "params/image_decoder/Dense_0/bias.npy": b"\x93NUMPY"}, "damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_and_nothing_runs(members, tmp_path, change, reason):
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
    ],
)
def test_styles_of_another_model_are_refused(trained, z, labels):
    model, variables, record = trained
    extras = {"styles/z": z, "styles/labels": labels}
    saved = NpzModel(model, variables, parse_record(record, "model.npz"), extras, {})
    with pytest.raises(UserError, match=r"The styles in the file are .* Export it again"):
        model_of_npz(saved)


def test_parameters_of_another_model_are_refused(trained, tmp_path):
    model, variables, record = trained
    other = json.loads(json.dumps(record))
    other["config"]["model"]["bottleneck"] = 7
    write_npz(tmp_path / "model.npz", model, variables, other)
    with pytest.raises(UserError, match=r"is damaged.*bias is \(6,\), but must be \(8,\)"):
        read_npz(tmp_path / "model.npz")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(trained, tmp_path, share):
    path = tmp_path / "model.npz"
    write_npz(path, *trained)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"model\.npz' is damaged"):
        read_npz(path)


def test_a_flipped_bit_anywhere_is_noticed(trained, tmp_path):
    """In what counts: the archive's dates and the like may be anything."""
    path = tmp_path / "model.npz"
    write_npz(path, *trained)
    sound = path.read_bytes()
    names = jax.tree.leaves(read_npz(path).variables)
    for at in np.random.default_rng(0).integers(0, len(sound), 40):
        data = bytearray(sound)
        data[at] ^= 1 << int(at % 8)
        path.write_bytes(data)
        try:
            found = jax.tree.leaves(read_npz(path).variables)
        except UserError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(names, found, strict=True)), at


def test_other_files_are_no_export(tmp_path):
    path = tmp_path / "own.npz"
    with pytest.raises(UserError, match="There is no file"):
        read_npz(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(UserError, match="not a file of `infoae export"):
        read_npz(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not a zip archive"):
        read_npz(path)
    with pytest.raises(UserError, match="damaged, or not"):
        read_npz(tmp_path)


def test_what_float16_cannot_hold_is_refused(trained, tmp_path):
    model, variables, record = trained
    with pytest.raises(UserError, match="float16 cannot hold"):
        write_npz(tmp_path / "x.npz", model, variables, record, "float16", {"styles": np.float32([1e6])})
    assert list(tmp_path.iterdir()) == []


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs `infoae export` in `tmp_path`; returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)  # devices are set up already

    def run(*words):
        code = main(["export", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_a_run_is_exported_with_styles_and_examples_and_loads_again(untrained, command, tmp_path):
    mine = infoae_jax.load(untrained)
    code, printed = command(untrained, "--to=npz", "--out=mine.npz", "--examples=20")
    assert code == 0
    assert "mine.npz  (" in printed
    saved = read_npz(tmp_path / "mine.npz")
    assert saved.extras["examples/labels"].tolist() == [*range(10)] * 2
    theirs = infoae_jax.load("mine.npz")
    assert theirs.step == mine.step == 8
    for a, b in zip(jax.tree.leaves(theirs.variables["params"]["style_encoder"]), _leaves(mine), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(theirs.style_bank.z, mine.style_bank.z[:NUM_EXPORTED])
    assert theirs.classes == mine.classes
    # An export can be exported again, and is not overwritten by the way.
    assert command("mine.npz", "--to=npz", "--dtype=float16", "--out=half.npz")[0] == 0
    assert (tmp_path / "half.npz").stat().st_size < 0.6 * (tmp_path / "mine.npz").stat().st_size
    assert set(read_npz(tmp_path / "half.npz").extras) == set(saved.extras)
    before = (tmp_path / "half.npz").read_bytes()
    code, printed = command("mine.npz", "--to=npz", "--out=half.npz")
    assert (code, "exists" in printed) == (2, True)
    assert (tmp_path / "half.npz").read_bytes() == before
    assert command("mine.npz", "--to=npz", "--out=half.npz", "--force")[0] == 0
    assert (tmp_path / "half.npz").read_bytes() != before
    with pytest.raises(UserError, match="holds one model only"):
        infoae_jax.load("mine.npz", step=3)


def test_the_command_looks_for_data_where_it_is_told_to(untrained, command, tmp_path, monkeypatch):
    copy = shutil.copytree(untrained, tmp_path / "copy", ignore=shutil.ignore_patterns(FILE))

    def lost(config, prepare=True):
        raise UserError(f"Nothing in {config.dir!r} (prepare: {prepare}).")

    monkeypatch.setattr(run_data, "load_splits", lost)
    code, printed = command(copy, "--to=npz", "--data_dir=moved")
    assert code == 0
    assert re.search(r"Without styles to sample from: .*Nothing in 'moved' \(prepare: False\)", printed)


def _leaves(trained):
    return jax.tree.leaves(trained.variables["params"]["style_encoder"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing", "--to=npz"], "'nothing' is not a run folder"),
        ([".", "--to=npz", "--out=x.npz"], "not a run folder"),
        (["a.npz", "--to=npz"], "with --out"),
        (["a.npz", "--to=npz", "--out=x.txt"], "must end in .npz"),
        (["a.npz", "--to=npz", "--out=folder.npz", "--force"], "is a folder"),
        (["a.npz", "--to=stablehlo", "--out=x", "--step=3"], "holds one model only"),
        (["a.npz", "--to=npz", "--out=x.npz", "--examples=-1"], "--examples is -1"),
        (["a.npz", "--to=npz", "--out=x.npz"], "'a.npz' is damaged"),
        (["a.npz", "--to=npz", "--out=x.npz", "--examples=3"], "--examples is for run folders"),
        (["a.npz", "--to=stablehlo", "--out=x", "--examples=3"], "for --to npz"),
        (["a.npz", "--to=stablehlo", "--out=x", "--dtype=float32"], "for --to npz"),
    ],
)
def test_what_cannot_work_is_said_and_leaves_nothing(command, tmp_path, words, sentence):
    (tmp_path / "a.npz").write_bytes(b"PK but no archive")
    (tmp_path / "folder.npz").mkdir()
    code, printed = command(*words)
    assert code == 2
    assert sentence in printed
    assert "Traceback" not in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "folder.npz"]

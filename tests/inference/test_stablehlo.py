import functools
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from configs import rendered
from infoae_jax.errors import UserError
from infoae_jax.inference.stablehlo import FUNCTIONS, read_stablehlo, write_stablehlo
from tests.bundles import random_bundle

SHAPE = (8, 12, 1)


@pytest.fixture(scope="module")
def bundle():
    values = rendered.get_config("tiny")
    values.data.name, values.data.dir, values.data.channels = "folder", "/home/someone/images", 1
    values.model.couplings, values.model.bottleneck = 2, 6
    return random_bundle(values, SHAPE, ("a", "b", "c"))


@pytest.fixture(scope="module")
def programs(bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("programs") / "stablehlo"
    write_stablehlo(out, bundle)
    return out


def replace_program(folder, name, program):
    """With a checksum that fits."""
    (folder / f"{name}.stablehlo").write_bytes(program)
    description = json.loads((folder / "description.json").read_text())
    description["functions"][name]["sha256"] = hashlib.sha256(program).hexdigest()
    (folder / "description.json").write_text(json.dumps(description))


def test_programs_give_what_the_model_gives_at_any_batch_size(bundle, programs):
    module, variables = bundle.model.module, bundle.model.variables
    functions = read_stablehlo(programs)

    @jax.jit
    def theirs(images, latents, labels):
        call = functools.partial(module.apply, variables)
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
        rng = np.random.default_rng(count)
        images, labels = rng.random((count, *SHAPE), np.float32), rng.integers(0, 3, count).astype(np.int32)
        latents = rng.normal(0, 0.3, (count, module.bottleneck)).astype(np.float32)
        for a, b in zip(ours(images, latents, labels), theirs(images, latents, labels), strict=True):
            assert np.abs(b).max() > 0.05
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_programs_are_for_all_platforms_and_described(programs):
    description = json.loads((programs / "description.json").read_text())
    for name in FUNCTIONS:
        program = jax_export.deserialize(bytearray((programs / f"{name}.stablehlo").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        said = description["functions"][name]
        for avals, signatures in ((program.in_avals, said["takes"]), (program.out_avals, said["gives"])):
            assert [(str(a.dtype), [str(n) for n in a.shape]) for a in avals] == [
                (v["dtype"], [str(n) for n in v["shape"]]) for v in signatures.values()
            ]
    assert description["classes"] == ["a", "b", "c"]
    assert "someone" not in json.dumps(description)


def test_a_damaged_program_is_named(programs, tmp_path):
    broken = shutil.copytree(programs, tmp_path / "broken")
    data = bytearray((broken / "decode.stablehlo").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "decode.stablehlo").write_bytes(data)
    with pytest.raises(UserError, match=r"the checksum of decode\.stablehlo does not match"):
        read_stablehlo(broken)
    (broken / "decode.stablehlo").unlink()
    with pytest.raises(UserError, match=r"damaged, or not a folder.*decode\.stablehlo"):
        read_stablehlo(broken)


def test_another_format_is_named(programs, tmp_path):
    other = shutil.copytree(programs, tmp_path / "other")
    description = json.loads((other / "description.json").read_text())
    (other / "description.json").write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(UserError, match="its format is 99, not 2"):
        read_stablehlo(other)


@pytest.mark.parametrize("start", [b"", b"\x08\0\0\0", b"\xff" * 8])
def test_a_broken_program_is_named_whatever_its_checksum(programs, tmp_path, start):
    changed = shutil.copytree(programs, tmp_path / "changed")
    replace_program(changed, "encode", start + (changed / "encode.stablehlo").read_bytes()[len(start) : 500])
    with pytest.raises(UserError, match="damaged, or not a folder"):
        read_stablehlo(changed)


def test_a_program_that_calls_into_the_process_is_not_run(programs, tmp_path):
    changed = shutil.copytree(programs, tmp_path / "changed")
    function = jax.jit(lambda x: jnp.linalg.qr(x)[0])  # calls LAPACK
    program = jax_export.export(function, platforms=["cpu"])(jnp.zeros((3, 3))).serialize()
    replace_program(changed, "encode", bytes(program))
    with pytest.raises(UserError, match=r"encode\.stablehlo' calls functions outside its program"):
        read_stablehlo(changed)


def test_only_an_earlier_export_is_replaced(bundle, programs, tmp_path):
    out = shutil.copytree(programs, tmp_path / "mine" / "stablehlo")
    (out / "decode.stablehlo").write_bytes(b"old")
    write_stablehlo(out, bundle)
    assert (out / "decode.stablehlo").read_bytes() != b"old"
    assert [p.name for p in out.parent.iterdir()] == ["stablehlo"]  # nothing temporary is left
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds more than an earlier export. Choose another --out"):
        write_stablehlo(out, bundle)
    assert (out / "mine.txt").read_text() == "mine"


def say_version(folder, version):
    description = json.loads((folder / "description.json").read_text())
    description["exported_by"]["jax"] = version
    (folder / "description.json").write_text(json.dumps(description))


def test_an_export_of_another_jax_is_used_if_it_works(bundle, programs, tmp_path):
    other = shutil.copytree(programs, tmp_path / "other")
    say_version(other, "0.1.2")
    assert read_stablehlo(other)["classify"](np.zeros((2, *SHAPE), np.float32)).shape == (2, 3)


@pytest.mark.parametrize("version", ["0.1.2", "99.0.0"])
def test_versions_are_named_if_an_export_of_another_jax_cannot_be_read(programs, tmp_path, version):
    other = shutil.copytree(programs, tmp_path / "other")
    replace_program(other, "encode", b"\xff" * 100)
    say_version(other, version)
    says = rf"exported by jax {version}, which this jax {jax.__version__} cannot use.*\.npz file.*for keeping"
    with pytest.raises(UserError, match=says):
        read_stablehlo(other)


def test_versions_are_named_if_an_export_of_another_jax_can_be_read_but_not_run(programs, tmp_path, monkeypatch):
    other = shutil.copytree(programs, tmp_path / "other")
    say_version(other, "0.1.2")

    def call(*_):
        raise RuntimeError("an operation that is no more")

    monkeypatch.setattr(jax_export.Exported, "call", call)
    with pytest.raises(UserError, match="exported by jax 0.1.2"):
        read_stablehlo(other)

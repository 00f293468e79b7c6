import functools
import json
import shutil

import jax
import numpy as np
import pytest
from jax import export as jax_export

from configs import rendered
from infoae_jax.errors import UserError
from infoae_jax.inference.stablehlo import FUNCTIONS, write_stablehlo
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


def read(folder, name):
    return jax_export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))


def test_programs_give_what_the_model_gives_at_any_batch_size(bundle, programs):
    module, variables = bundle.model.module, bundle.model.variables
    functions = {name: read(programs, name).call for name in FUNCTIONS}

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
        program = read(programs, name)
        assert program.platforms == ("cpu", "cuda", "tpu")
        said = description["functions"][name]
        for avals, signatures in ((program.in_avals, said["takes"]), (program.out_avals, said["gives"])):
            assert [(str(a.dtype), [str(n) for n in a.shape]) for a in avals] == [
                (v["dtype"], [str(n) for n in v["shape"]]) for v in signatures.values()
            ]
    assert description["classes"] == ["a", "b", "c"]
    assert "someone" not in json.dumps(description)


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

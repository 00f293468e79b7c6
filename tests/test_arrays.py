import io
import zipfile

import numpy as np
import pytest

from infoae_jax.arrays import read_arrays


def test_arrays_come_back(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b/c": np.array("text"), "none": np.zeros((0, 3), bool)}
    np.savez(tmp_path / "x.npz", **arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("shape", [(2_000_000_000,), (5,), (7, 1)])
def test_a_header_that_claims_another_size_is_refused_before_memory_is_taken(tmp_path, shape, monkeypatch):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", file.getvalue() + bytes(48))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"a\.npy is float64\[.*\], which is not its size"):
        read_arrays(tmp_path / "x.npz")

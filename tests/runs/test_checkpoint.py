import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.errors import UserError
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.training.state import TrainState


def state_at(step):
    return {"step": jnp.int32(step), "weights": jnp.arange(3000, dtype=jnp.float32) * step}


def abstract():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state_at(0))


def restore(run, step=None, keep=None):
    with Checkpoints(run, keep) as checkpoints:
        return checkpoints.restore(abstract(), step)


@pytest.fixture
def saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_at(step))
    return tmp_path


def test_a_checkpoint_that_is_waited_for_is_on_the_disk(tmp_path):
    with Checkpoints(tmp_path, keep=2, wait=True) as checkpoints:
        checkpoints.save(1, state_at(1))
        assert restore(tmp_path)[0] == 1


def damage(run, step, how="flip"):
    files = [p for p in (run / "checkpoints" / str(step) / "state").rglob("*") if p.is_file() and p.stat().st_size > 0]
    for file in files:
        content = bytearray(file.read_bytes())
        if how == "flip":
            content[len(content) // 2] ^= 0xFF
        file.write_bytes(content if how == "flip" else content[: len(content) // 2])
        if how == "remove":
            file.unlink()


def test_keeps_the_newest_and_restores_them(saved):
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["2", "3"]
    step, state = restore(saved)
    assert step == 3
    np.testing.assert_array_equal(state["weights"], state_at(3)["weights"])
    step, state = restore(saved, 2)
    assert (step, int(state["step"])) == (2, 2)
    with pytest.raises(UserError, match=r"no checkpoint of step 1\. There are: \[2, 3\]"):
        restore(saved, 1)


def test_nothing_there(tmp_path):
    assert restore(tmp_path, keep=2) is None


def test_what_is_saved_is_not_touched_by_later_donation(tmp_path):
    update = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = state_at(1)
    expected = np.array(state["weights"])
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = update(state)
    np.testing.assert_array_equal(restore(tmp_path)[1]["weights"], expected)


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(saved, how):
    damage(saved, 3, how)
    with Checkpoints(saved, keep=2) as checkpoints:
        with pytest.warns(UserWarning, match="checkpoint of step 3 .* is damaged .*; that of step 2 is used instead"):
            step, state = checkpoints.restore(abstract())
        assert (step, int(state["step"])) == (2, 2)
        assert (saved / "damaged_checkpoint_3").is_dir()
        checkpoints.save(3, state_at(3))
    assert restore(saved)[0] == 3


def test_reading_a_damaged_one_moves_nothing(saved):
    damage(saved, 3)
    with pytest.warns(UserWarning, match="damaged"):
        assert restore(saved)[0] == 2
    assert (saved / "checkpoints" / "3").is_dir()


def change_check(run, step, change):
    path = run / "checkpoints" / str(step) / "check" / "metadata"
    check = json.loads(path.read_text())
    change(check)
    path.write_text(json.dumps(check))


def test_silent_corruption_is_found_by_the_checksum(saved):
    """A checkpoint that decodes without an error, but into other numbers."""
    change_check(saved, 3, lambda check: check["sums"].update({"['weights']": 1}))
    with pytest.warns(UserWarning, match="checksum"):
        assert restore(saved)[0] == 2


def test_a_part_is_restored_whatever_the_rest_looks_like(tmp_path):
    """So that a trained model is read by versions of the code that train it in another way."""
    variables = {"weights": jnp.arange(5.0)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            optimizers, sums = {"autoencoder": jnp.ones(7)}, {"autoencoder": {"lambda": jnp.ones(())}}
            checkpoints.save(step, TrainState(jnp.int32(step), variables, optimizers, sums))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), variables)

    def read(shapes):
        with Checkpoints(tmp_path) as checkpoints:
            return checkpoints.restore(shapes, part="variables")

    step, found = read(shapes)
    assert step == 2
    np.testing.assert_array_equal(found["weights"], variables["weights"])
    with pytest.raises(UserError, match=r"variables\['more'\] is not the same"):
        read(shapes | {"more": shapes["weights"]})
    change_check(tmp_path, 2, lambda check: check["sums"].update({".optimizers['autoencoder']": 1}))
    assert read(shapes)[0] == 2  # of no concern here
    change_check(tmp_path, 2, lambda check: check["sums"].update({".variables['weights']": 1}))
    with pytest.warns(UserWarning, match="checksum"):
        assert read(shapes)[0] == 1


def test_a_damaged_layout_is_no_other_version_if_the_one_before_is_sound(saved):
    change_check(saved, 3, lambda check: check["layout"].pop("['weights']"))
    with pytest.warns(UserWarning, match="step 3 .* that of step 2 is used instead"):
        assert restore(saved)[0] == 2


@pytest.mark.parametrize("content", [b"", b"[]", b'{"performance_metrics": 3}', b"\xff"])
def test_damaged_notes_of_orbax_matter_to_nobody(saved, content):
    for step in (2, 3):
        (saved / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_bytes(content)
    assert restore(saved)[0] == 3
    with Checkpoints(saved, keep=2) as checkpoints:
        assert checkpoints.restore(abstract())[0] == 3
        checkpoints.save(4, state_at(4))
    assert restore(saved)[0] == 4
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["3", "4"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    for keep in (None, 2):
        with pytest.raises(UserError, match="checkpoints is not a folder. Move it away"):
            restore(tmp_path, keep=keep)


def test_all_damaged(saved):
    damage(saved, 2)
    damage(saved, 3)
    for _ in range(2):  # a second start must not find an empty folder and train from scratch
        with pytest.raises(UserError, match="all of .* are damaged"):
            restore(saved, keep=2)
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["2", "3"]


def test_another_shape_is_not_restored(saved):
    wrong = abstract()
    wrong["weights"] = jax.ShapeDtypeStruct((7,), jnp.float32, sharding=wrong["weights"].sharding)
    says = r"step 3 .* another version of the code: \['weights'\] is not the same"
    with Checkpoints(saved, keep=2) as checkpoints, pytest.raises(UserError, match=says):
        checkpoints.restore(wrong)
    assert restore(saved)[0] == 3


def test_a_failed_save_is_said_and_the_former_ones_stay(saved, monkeypatch):

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with Checkpoints(saved, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(UserError, match=r"No space left.*Sound ones: \[2, 3\].*Make room"):
            checkpoints.save(4, state_at(4))
    assert restore(saved)[0] == 3


def test_a_full_disk_is_said_before_anything_is_written(saved, monkeypatch):
    usage = shutil.disk_usage(saved)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        Checkpoints(saved, keep=2) as checkpoints,
        pytest.raises(UserError, match=r"needs 1\.1 MB, but 1\.0 MB are left.*Sound ones: \[2, 3\]"),
    ):
        checkpoints.save(4, state_at(4))
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["2", "3"]

"""Checkpoints: what is kept, what damage is noticed, what is used instead, and what is refused."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import checkpoint
from slif_jax.checkpoint import CheckpointError, Checkpoints, Progress
from slif_jax.config import Config
from slif_jax.train_state import TrainState
from slif_jax.workdir import CheckpointWarning

CONFIG = Config(width=8)


def state_of(epoch: int) -> TrainState:
    table = jnp.full((50, 8), float(epoch))
    return TrainState(
        step=jnp.int32(10 * epoch),
        epoch=jnp.int32(epoch),
        params={"user_embedding": table},
        opt_state={"mu": table / 2},
        average=None,
        rng=jax.random.key(epoch),
        correlation={"senders": jnp.arange(5, dtype=jnp.int32)},
        item_vectors=table,
        score_covariance=jnp.eye(8) * epoch,
    )


def saved(folder: Path, best_epochs: dict[int, int]) -> Path:
    """Checkpoints written one after the other: epoch, and the best one by then."""
    checkpoints = Checkpoints(folder, CONFIG)
    for epoch, best in best_epochs.items():
        checkpoints.save(state_of(epoch), Progress(epoch=epoch, best_epoch=best, seconds={"train": 0.1 * epoch}))
    checkpoints.close()
    return folder


def last(folder: Path, config: Config = CONFIG) -> tuple[int, Progress] | None:
    checkpoints = Checkpoints(folder, config)
    try:
        found = checkpoints.restore_last(state_of(0))
    finally:
        checkpoints.close()
    return None if found is None else (int(found[0].epoch), found[1])


def epochs(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def largest(folder: Path) -> Path:
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_state_comes_back_to_the_bit(tmp_path: Path):
    saved(tmp_path / "c", {3: 2})
    shutil.copytree(tmp_path / "c" / "3", tmp_path / "c" / "2")  # only the number counts here
    checkpoints = Checkpoints(tmp_path / "c", CONFIG)
    state, progress = checkpoints.restore(state_of(0), 3)
    checkpoints.close()
    assert progress == Progress(epoch=3, best_epoch=2, seconds={"train": 0.1 * 3})
    expected = state_of(3)
    assert jax.random.key_data(state.rng).tolist() == jax.random.key_data(expected.rng).tolist()
    jax.tree.map(np.testing.assert_array_equal, state.replace(rng=0), expected.replace(rng=0))


def test_nothing_saved_is_nothing_restored(tmp_path: Path):
    assert last(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_the_last_two_and_the_best_of_each_are_kept(tmp_path: Path):
    assert epochs(saved(tmp_path / "a", {1: 1, 2: 2, 3: 3, 4: 4})) == [3, 4]
    assert epochs(saved(tmp_path / "b", {1: 1, 5: 1, 10: 1, 11: 11, 20: 11})) == [11, 20]
    assert epochs(saved(tmp_path / "c", {1: 1, 2: 2, 10: 2, 11: 11})) == [2, 10, 11]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "truncated": (truncate, "bytes, .* were written"),
    "a bit": (flip_a_bit, "SHA-256 differs"),
    "gone": (Path.unlink, "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_the_one_before_is_used(tmp_path: Path, damage: str):
    folder = saved(tmp_path / "c", {4: 4, 6: 4, 9: 4})
    act, words = DAMAGE[damage]
    act(largest(folder / "9"))
    with pytest.warns(CheckpointWarning, match=rf"9/.*{words}.*epoch 6 is used: epochs 7 to 9 are lost"):
        found = last(folder)
    assert found is not None
    assert found[0] == 6
    assert epochs(folder) == [4, 6, 9]  # nothing is thrown away by looking
    checkpoints = Checkpoints(folder, CONFIG)
    checkpoints.save(state_of(9), Progress(epoch=9, best_epoch=4))  # the epochs are trained again
    checkpoints.close()
    assert last(folder) == (9, Progress(epoch=9, best_epoch=4))


@pytest.mark.parametrize("damage", ["truncated", "a bit", "gone", "empty"])
def test_damage_to_the_seal_is_noticed_too(tmp_path: Path, damage: str):
    folder = saved(tmp_path / "c", {4: 4, 6: 6})
    DAMAGE[damage][0](folder / "6" / "checkpoint.json")
    with pytest.warns(CheckpointWarning, match=r"6/checkpoint\.json .*epoch 4 is used"):
        found = last(folder)
    assert found is not None
    assert found[0] == 4


def test_numbers_changed_by_hand_are_noticed(tmp_path: Path):
    folder = saved(tmp_path / "c", {4: 4, 6: 6})
    path = folder / "6" / "checkpoint.json"
    path.write_text(path.read_text().replace('"best_value": -1.0', '"best_value": 0.99'))
    with pytest.warns(CheckpointWarning, match="SHA-256 differs"):
        last(folder)


def test_one_whose_best_is_whole_is_preferred(tmp_path: Path):
    folder = saved(tmp_path / "c", {4: 4, 6: 4, 7: 7, 9: 7})
    assert epochs(folder) == [7, 9]
    folder = saved(tmp_path / "d", {4: 4, 6: 4, 9: 9})
    flip_a_bit(largest(folder / "9"))
    with pytest.warns(CheckpointWarning, match="epoch 6 is used"):
        found = last(folder)
    assert found is not None
    assert found[1].best_epoch == 4


def test_a_lost_best_epoch_is_named_and_training_goes_on(tmp_path: Path):
    folder = saved(tmp_path / "c", {4: 4, 6: 6, 9: 6})
    flip_a_bit(largest(folder / "6"))
    with pytest.warns(CheckpointWarning, match=r"6/.*epoch 9 is used: the best epoch is lost"):
        found = last(folder)
    assert found is not None
    assert found[0] == 9
    assert (found[1].best_epoch, found[1].best_value) == (0, -1.0)


def test_with_all_of_them_damaged_nothing_is_made_up(tmp_path: Path):
    folder = saved(tmp_path / "c", {4: 4, 6: 6})
    for epoch in (4, 6):
        flip_a_bit(largest(folder / str(epoch)))
    with pytest.raises(CheckpointError, match=r"6/.*4/.*None is left.*--resume=never"):
        last(folder)


def test_the_best_alone_is_restored_for_serving(tmp_path: Path):
    checkpoints = Checkpoints(saved(tmp_path / "c", {4: 4, 6: 4, 9: 4}), CONFIG)
    found = checkpoints.restore_best(state_of(0))
    checkpoints.close()
    assert found is not None
    assert int(found[0].epoch) == 4


def test_a_checkpoint_of_another_configuration_is_refused_with_the_difference(tmp_path: Path):
    folder = saved(tmp_path / "c", {4: 4})
    with pytest.raises(CheckpointError, match=r"another configuration.*width is 16, was 8"):
        last(folder, dataclasses.replace(CONFIG, width=16))
    assert last(folder, dataclasses.replace(CONFIG, epochs=7)) is not None


@pytest.mark.parametrize(("schema", "age"), [(4, "a newer"), (2, "an earlier")])
def test_another_schema_is_refused(tmp_path: Path, schema: int, age: str):
    folder = saved(tmp_path / "c", {4: 4})
    path = folder / "4" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema, "news": True}))
    with pytest.raises(CheckpointError, match=rf"has schema {schema}, .* reads 3: it was written by {age} one"):
        last(folder)


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "c", {4: 4})
    checkpoints = Checkpoints(folder, CONFIG)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_checksums", full)
        checkpoints.save(state_of(6), Progress(epoch=6, best_epoch=6))
        with pytest.raises(CheckpointError, match=r"epoch 6 could not be written .*No space left on device.*intact"):
            checkpoints.close()
    assert epochs(folder) == [4]
    assert last(folder) == (4, Progress(epoch=4, best_epoch=4, seconds={"train": 0.4}))
    saved(folder, {6: 6})
    assert epochs(folder) == [4, 6]


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path: Path):
    folder = saved(tmp_path / "c", {4: 4})
    shutil.copytree(folder / "4", folder / "9.partial")
    shutil.copytree(folder / "4", folder / "2.gone.partial")
    assert last(folder) == (4, Progress(epoch=4, best_epoch=4, seconds={"train": 0.4}))
    saved(folder, {6: 6})
    assert epochs(folder) == [4, 6]


def test_a_training_at_work_in_the_folder_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "c", {4: 4, 6: 6})
    reader, real = Checkpoints(folder, CONFIG), Checkpoints._load
    removed: list[int] = []

    def load(self: Checkpoints, target: TrainState, epoch: int):
        if not removed:  # between the choice and the reading
            removed.append(epoch)
            saved(folder, {9: 9, 12: 12})
        return real(self, target, epoch)

    monkeypatch.setattr(Checkpoints, "_load", load)
    found = reader.restore_best(state_of(0))
    assert found is not None
    assert (removed, found[1].epoch) == ([6], 12)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "c").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        Checkpoints(tmp_path / "c", CONFIG)


def test_where_no_epoch_was_the_best_yet_none_is_called_lost(tmp_path: Path):
    folder = saved(tmp_path / "c", {2: 0, 4: 0})
    flip_a_bit(largest(folder / "4"))
    with pytest.warns(CheckpointWarning, match="epoch 2 is used: epochs 3 to 4 are lost"):
        assert last(folder) is not None

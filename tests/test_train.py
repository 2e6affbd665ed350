"""Whole runs on small synthetic data: determinism, resuming, what is left in the folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from slif_jax.checkpoint import Checkpoints, Progress
from slif_jax.config import Config
from slif_jax.evaluate import SPLITS
from slif_jax.memory import WillNotFitError
from slif_jax.outcome import describe_result
from slif_jax.protocols import Protocol
from slif_jax.train import NonFiniteLossError, _advance, train_and_evaluate
from slif_jax.workdir import CheckpointWarning, Workdir, WorkdirError

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = Config(
    dataset="synthetic:users=60,items=40,clusters=3,seed=2",
    width=8,
    correlation_neighbors=4,
    feature_neighbors=4,
    correlation_start=1,
    batch_size=128,
    knowledge_batch=64,
    consistency_batch=16,
    epochs=6,
    learning_rate=1e-2,
    eval_block=64,
    popularity_weight=0.1,
    select_over=3,
)


def run(workdir: Path, config: Config = SMALL, **options) -> dict:
    return train_and_evaluate(config, workdir, progress="off", **options)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    with jax.numpy_dtype_promotion("standard"):
        run(workdir)
    return workdir


def numbers(workdir: Path) -> tuple[str, dict, dict]:
    result = json.loads((workdir / "result.json").read_text())
    return (workdir / "metrics.jsonl").read_text(), result["valid"], result["test"]


def test_what_a_run_leaves_behind(unbroken: Path):
    names = {path.name for path in unbroken.iterdir()}
    files = {"config.json", "environment.json", "metrics.jsonl", "result.json", "test_users.npz"}
    assert names == files | {"checkpoints", "plots"}
    plots = {"loss.png", "validation.png", "correlation.png", "weights.png"}
    assert {path.name for path in (unbroken / "plots").iterdir()} == plots
    result = json.loads((unbroken / "result.json").read_text())
    for key in ("dataset", "protocol", "seed", "best_epoch", "epochs", "valid", "test", "seconds", "peak_memory_bytes"):
        assert key in result
    assert set(result["seconds"]) == {"setup", "compile", "train", "rebuild", "evaluate"}
    assert result["protocol"] == "strict with select_over=3"
    assert result["selected_on"] == "valid"
    assert set(result["missing_features"]["items"]) == {"text", "visual"}
    for split in SPLITS:
        assert {"recall@10", "recall@20", "ndcg@10", "ndcg@20"} <= set(result[split])
    rows = Workdir(unbroken).read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["correlation_kept"] is None for row in rows] == [True, False, False, False, False, False]
    values = [row["valid"]["recall@20"] for row in rows]
    means = [np.mean(values[i - 2 : i + 1]) for i in range(2, 6)]
    assert result["best_epoch"] == 3 + np.argmax(means)  # picked by the mean of three evaluations
    assert result["selected_value"] == pytest.approx(max(means))
    assert result["valid"]["recall@20"] == values[2 + np.argmax(means)]
    assert rows[-1]["loss"]["loss"] < rows[0]["loss"]["loss"]


def test_an_epoch_is_picked_by_whole_means_and_exactly():
    def picked(values: list[float], **rules) -> tuple[int, int]:
        status = Progress()
        for value in values:
            status, _ = _advance(status, {"recall@20": value}, Protocol("strict", **rules), {})
        return status.best_epoch, status.evaluations_since_best

    assert picked([0.9, 0.1, 0.1, 0.5, 0.6], select_over=3) == (5, 0)  # no luck of the first alone
    assert picked([0.1, 0.5, 0.3, 0.3, 0.1], select_over=3) == (4, 1)
    assert picked([0.9, 0.8], select_over=3) == (2, 0)  # there are no more
    for value in (0.8, 0.1, 0.4031):
        for over in (1, 3, 5, 10):
            assert picked([value] * 20, select_over=over) == (over, 20 - over)  # rounding makes no new best
    assert picked([0.4, 0.40004], round_digits=4)[0] == 1
    assert picked([0.4, 0.4, 0.40006, 0.4], select_over=2, round_digits=4)[0] == 2


def test_values_per_user_give_the_means_of_the_result(unbroken: Path):
    result = json.loads((unbroken / "result.json").read_text())
    with np.load(unbroken / "test_users.npz") as file:
        values = dict(zip(file["names"].tolist(), file["values"][file["counted"]].mean(axis=0).tolist(), strict=True))
        assert str(file["data_fingerprint"]) == result["data_fingerprint"]
    np.testing.assert_allclose(list(values.values()), [result["test"][name] for name in values], rtol=1e-12)
    for name, (low, high) in result["test_interval"].items():
        assert low <= values[name] <= high


def test_a_protocol_that_selects_on_test_says_so(unbroken: Path, tmp_path: Path):
    result = run(tmp_path / "run", dataclasses.replace(SMALL, protocol="kgat", eval_every=2, select_over=1))
    assert result["protocol"] == "kgat with patience=30, eval_every=2"
    assert result["selected_on"] == "test"
    assert result["valid"] == {}
    assert "selected on test, as protocol kgat does" in describe_result(result)
    rows = Workdir(tmp_path / "run").read_metrics()
    assert [bool(row["test"]) for row in rows] == [False, True] * 3
    scores = [row["test"]["recall@20"] for row in rows if row["test"]]
    assert result["best_epoch"] == 2 * max(range(1, 4), key=lambda n: (scores[n - 1], n))  # an equal one is a new best
    assert result["test"]["recall@20"] == max(scores)
    strict = Workdir(unbroken).read_metrics()
    assert [row["loss"] for row in rows] == [row["loss"] for row in strict]  # the protocol does not touch training


def test_the_same_seed_gives_the_same_numbers_and_another_seed_does_not(unbroken: Path, tmp_path: Path):
    run(tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(unbroken)
    run(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    assert numbers(tmp_path / "other")[0] != numbers(unbroken)[0]


def test_a_run_stopped_and_resumed_equals_an_unbroken_one(unbroken: Path, tmp_path: Path):
    workdir = tmp_path / "stopped"
    run(workdir, dataclasses.replace(SMALL, epochs=3))
    assert len(Workdir(workdir).read_metrics()) == 3
    run(workdir, resume="must")
    assert numbers(workdir) == numbers(unbroken)
    result = json.loads((workdir / "result.json").read_text())
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept >= {result["best_epoch"], result["epochs"]}


def test_a_crash_between_checkpoints_is_made_up_for(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workdir = tmp_path / "crashed"
    real = Checkpoints.save
    saved: list[int] = []

    def crash(self, state, progress):
        if progress.epoch >= 5:
            self.wait()
            raise OSError("pulled the plug")
        saved.append(progress.epoch)
        real(self, state, progress)

    monkeypatch.setattr(Checkpoints, "save", crash)
    with pytest.raises(OSError, match="pulled the plug"):
        run(workdir, checkpoint_every=1)
    assert saved == [1, 2, 3, 4]
    assert len(Workdir(workdir).read_metrics()) == 5
    monkeypatch.setattr(Checkpoints, "save", real)
    run(workdir, checkpoint_every=1)
    assert numbers(workdir) == numbers(unbroken)


def test_the_best_and_the_last_checkpoint_are_kept(unbroken: Path):
    result = json.loads((unbroken / "result.json").read_text())
    kept = {int(path.name) for path in (unbroken / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept >= {result["best_epoch"], result["epochs"]}


def test_a_finished_run_says_so_and_changes_nothing(unbroken: Path):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}
    result = run(unbroken)
    assert result == json.loads((unbroken / "result.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_configuration_is_refused_with_the_difference(unbroken: Path):
    with pytest.raises(WorkdirError, match=r"learning_rate is 0\.5, was 0\.01"):
        run(unbroken, dataclasses.replace(SMALL, learning_rate=0.5))


def test_checkpoints_that_somebody_removed_are_missed(unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(WorkdirError, match=r"has a result, but no checkpoints.*--resume=never"):
        run(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(WorkdirError, match=r"has a run, but no checkpoints.*--resume=auto"):
        run(tmp_path / "run", resume="must")
    assert len(Workdir(tmp_path / "run").read_metrics()) == 6


def test_where_the_best_epoch_is_lost_the_last_takes_its_place(tmp_path: Path):
    config = dataclasses.replace(SMALL, patience=2, epochs=100)
    before = run(tmp_path / "run", config)
    for file in (tmp_path / "run" / "checkpoints" / str(before["best_epoch"]) / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.warns(CheckpointWarning, match="the best epoch is lost"):
        after = run(tmp_path / "run", config)
    assert (after["best_epoch"], after["epochs"]) == (before["epochs"], before["epochs"])
    assert after["valid"] == Workdir(tmp_path / "run").read_metrics()[-1]["valid"]
    assert "chosen on validation" in describe_result(after)
    hint = "with more --epochs goes on from there"
    assert hint not in describe_result(after)  # it was patience that ended it
    assert hint in describe_result({**after, "stopped_early": False})
    assert hint not in describe_result({**after, "stopped_early": False, "epochs": after["epochs"] + 1})


def test_a_damaged_configuration_can_be_started_over(unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"dataset": ')
    with pytest.raises(WorkdirError, match=r"not valid JSON.*--resume=never"):
        run(tmp_path / "run")
    assert run(tmp_path / "run", dataclasses.replace(SMALL, epochs=1), resume="never")["epochs"] == 1


def test_metrics_that_were_changed_do_not_cost_the_result(unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"loss": {', '"lost": {', 1))
    assert run(tmp_path / "run")["test"] == numbers(unbroken)[2]


def test_patience_ends_training(tmp_path: Path):
    config = dataclasses.replace(SMALL, patience=2, epochs=100)
    result = run(tmp_path / "run", config)
    assert result["stopped_early"]
    assert result["epochs"] < 100
    assert result["epochs"] - result["best_epoch"] == 2


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path):
    with pytest.raises(NonFiniteLossError, match=r"Epoch 1, step 2: not finite: loss = nan"):
        run(tmp_path / "run", dataclasses.replace(SMALL, learning_rate=1e30))
    assert not (tmp_path / "run" / "result.json").exists()


def test_without_validation_the_last_epoch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from slif_jax import data

    real = data.load

    def no_validation(*args, **kwargs):
        return dataclasses.replace(real(*args, **kwargs), valid=np.zeros((0, 2), np.int32))

    monkeypatch.setattr(data, "load", no_validation)
    result = run(tmp_path / "run", dataclasses.replace(SMALL, epochs=3))
    assert result["best_epoch"] == 3
    assert result["valid"] == {}
    assert result["test"]["recall@20"] > 0


def test_a_search_leaves_test_alone_until_it_is_asked_for(unbroken: Path, tmp_path: Path):
    searched = run(tmp_path / "run", evaluate_test=False)
    assert searched["test"] == {}
    assert searched["valid"] == numbers(unbroken)[1]
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    chosen = run(tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(unbroken)
    assert chosen["test"] == numbers(unbroken)[2]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == rows


def test_a_training_that_would_not_fit_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("slif_jax.memory.free_bytes", lambda: 1 << 20)
    with pytest.raises(WillNotFitError, match=r"needs .* per device, and there are"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    small = dataclasses.replace(SMALL, epochs=1)
    assert run(tmp_path / "run", small, check_memory=False)["epochs"] == 1

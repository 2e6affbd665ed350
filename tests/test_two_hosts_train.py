"""A training of two processes gives the numbers of one, and the first of them alone writes."""

import json
import signal
import time
from pathlib import Path

import pytest
from programs import TINY_RUN
from two_hosts import start_processes

from slif_jax.config import Config
from slif_jax.prepare import load_dataset

FLAGS = (
    *TINY_RUN,
    "--eval_block=32",
    "--checkpoint_every=1",
    "--progress=off",
    "--regression_weight=0.1",
    "--regression_rank=6",
    "--walk_weight=0.1",
    "--walk_rank=5",
    "--content_weight=0.1",
    "--content_rank=4",
    "--popularity_weight=0.1",
    "--dataset=synthetic",
    "--interaction_noise=0.5",
    "--weigh_interactions",
)


def numbers(workdir: Path) -> tuple[list[dict], dict]:
    lines = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads((workdir / "result.json").read_text())["test"]


def test_two_processes_give_the_numbers_of_one_and_go_on_where_they_were(tmp_path: Path):
    noisy = Config(dataset="synthetic", interaction_noise=0.5, weigh_interactions=True)
    assert load_dataset(noisy).train_weights is not None  # or the flag would say nothing
    train = ["-m", "experiments.train", *FLAGS]
    several = [*train, "--mesh=data:4", "--patience=100000", f"--workdir={tmp_path / 'two'}"]
    with start_processes([*several, "--epochs=100000"], 2, 2) as processes:
        metrics = tmp_path / "two" / "metrics.jsonl"
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 1):
            assert processes.running[0].poll() is None, processes.output(0)
            time.sleep(0.02)
        processes.running[1].send_signal(signal.SIGTERM)  # process 0 is told by it
        stopped = processes.wait()
    epochs = len(metrics.read_text().splitlines())
    for done in stopped:
        assert done.status == 75, done.output
        assert f"Stopped after epoch {epochs}: the same command goes on" in done.output
    assert (tmp_path / "two" / "checkpoints" / str(epochs)).is_dir()
    with start_processes([*several, f"--epochs={epochs + 1}"], 2, 2) as processes:
        for index, done in enumerate(processes.wait()):
            assert done.status == 0, done.output
            assert ("Best epoch" in done.output) == (index == 0), done.output
    alone = [*train, "--patience=100000", f"--epochs={epochs + 1}", f"--workdir={tmp_path / 'one'}"]
    with start_processes(alone, 1, 1) as processes:
        (done,) = processes.wait()
    assert done.status == 0, done.output
    (losses, test), (mesh_losses, mesh_test) = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert len(mesh_losses) == epochs + 1
    for ours, theirs in zip(mesh_losses[:4], losses[:4], strict=True):  # rounding grows from epoch to epoch
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert mesh_losses[-1] == pytest.approx(losses[-1], rel=1e-2)
    assert mesh_test["recall@20"] == pytest.approx(test["recall@20"], abs=0.02)


def test_several_processes_without_a_mesh_are_refused(tmp_path: Path):
    with start_processes(["-m", "experiments.train", *FLAGS, f"--workdir={tmp_path / 'run'}"], 2, 2) as processes:
        done = processes.wait()
    assert all(one.status != 0 for one in done)
    assert any("--mesh=data:4" in one.output for one in done), done

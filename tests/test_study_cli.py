"""The programs `study` and `report` as users start them, on runs that are really trained."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
from programs import QUICK_XLA, run_program
from test_cli import complaint

QUICK = (
    "--dataset=synthetic:users=40,items=30,clusters=3",
    "--noside_information",
    "--width=8",
    "--epochs=2",
    "--batch_size=128",
    "--progress=line",
    "--seeds=0,1",
)


def program(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return run_program(["-m", f"experiments.{name}", *flags], XLA_FLAGS=QUICK_XLA)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("study") / "seeds"
    done = program("study", "--study=seeds", "--against=--width=4", *QUICK, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "cell 4 of 4: --width=4, seed 1" in done.stdout
    assert "| this configuration | 40 | 2 |" in done.stdout
    return workdir


def test_the_table_holds_the_numbers_of_the_runs(finished: Path):
    with (finished / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["this configuration", "--width=4"]
    results = [
        json.loads((finished / "runs" / f"this-configuration-seed{seed}" / "result.json").read_text())
        for seed in (0, 1)
    ]
    tests = [result["test"] for result in results]
    epochs = [
        sum(result["seconds"][phase] for phase in ("train", "rebuild", "evaluate")) / result["epochs"]
        for result in results
    ]
    assert float(rows[0]["epoch_seconds"]) == pytest.approx(sum(epochs) / 2, abs=1e-3)
    best = sum(seconds * result["best_epoch"] for seconds, result in zip(epochs, results, strict=True)) / 2
    assert float(rows[0]["seconds_to_best"]) == pytest.approx(best, abs=0.05)
    mean = sum(test["recall@20"] for test in tests) / 2
    assert float(rows[0]["recall@20_mean"]) == pytest.approx(mean, abs=1e-12)
    assert 0 < float(rows[1]["recall@20_p"]) <= 1
    assert not (finished / "compiled").exists()


def test_a_finished_study_is_not_run_again_and_makes_a_page(finished: Path):
    stamps = {path: path.stat().st_mtime_ns for path in finished.rglob("result.json")}
    flags = ("--study=seeds", "--against=--width=4", *QUICK, f"--workdir={finished}")
    done = program("study", *flags)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 cells" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    page = program("report", f"--workdir={finished}")
    assert page.returncode == 0, page.stderr
    assert (finished / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--study=seeds", "--against=--widht=4"), ("--against", "widht", "width")),
        (("--study=noise", "--levels=10,many"), ("--levels", "many")),
        (("--study=ablation", "--against=--width=4"), ("--against", "ablation")),
        (("--study=sweep", "--split_seeds=1,2"), ("--split_seeds", "sweep")),
        (("--study=seeds", "--split_seeds=1,2"), ("split_seeds", "--split=ratio")),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) and value[0].startswith("--study") else "",
)
def test_bad_flags_get_one_line_and_nothing_is_written(tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]):
    line = complaint(program("study", *QUICK, *flags, f"--workdir={tmp_path / 'study'}"))
    for word in words:
        assert word in line
    assert not (tmp_path / "study").exists()

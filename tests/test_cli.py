"""The programs, as users start them: bad input gets one line and status 2, good input gets results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    "--dataset=synthetic:users=40,items=30,clusters=3",
    "--width=8",
    "--epochs=2",
    "--correlation_start=1",
    "--batch_size=128",
    "--progress=line",
)


def program(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("cli") / "run"
    done = program("train", *QUICK, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2: loss" in done.stdout
    assert "Test (strict" in done.stdout
    return workdir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good data set to be spoilt."""
    made = tmp_path / "data"
    made.mkdir()
    rows = [
        f"{user}\t{(user + step) % 6}\t{split}"
        for user in range(5)
        for step, split in enumerate(("train", "train", "train", "valid", "test"))
    ]
    (made / "interactions.tsv").write_text("user\titem\tsplit\n" + "\n".join(rows) + "\n")
    np.save(made / "visual.npy", np.ones((6, 3), np.float32))
    return made


def spoil_missing(folder: Path) -> None:
    (folder / "interactions.tsv").unlink()


def spoil_column(folder: Path) -> None:
    path = folder / "interactions.tsv"
    path.write_text(path.read_text().replace("item", "article"))


def spoil_word(folder: Path) -> None:
    path = folder / "interactions.tsv"
    path.write_text(path.read_text() + "0\tB00X\ttrain\n")


def spoil_negative(folder: Path) -> None:
    path = folder / "interactions.tsv"
    path.write_text(path.read_text() + "-1\t0\ttrain\n")


def spoil_gap(folder: Path) -> None:
    path = folder / "interactions.tsv"
    path.write_text(path.read_text() + "9\t0\ttrain\n")


def spoil_nan(folder: Path) -> None:
    x = np.ones((6, 3), np.float32)
    x[4, 1] = np.nan
    np.save(folder / "visual.npy", x)


def spoil_rows(folder: Path) -> None:
    np.save(folder / "visual.npy", np.ones((5, 3), np.float32))


def spoil_train(folder: Path) -> None:
    path = folder / "interactions.tsv"
    path.write_text(path.read_text().replace("train", "test"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_missing, ("interactions.tsv",)),
        (spoil_column, ("interactions.tsv", "item")),
        (spoil_word, ("interactions.tsv, line 27", "integer", "B00X")),
        (spoil_negative, ("interactions.tsv, line 27", "-1")),
        (spoil_gap, ("interactions.tsv", "5")),
        (spoil_nan, ("visual.npy", "4", "nan")),
        (spoil_rows, ("visual.npy", "6", "5")),
        (spoil_train, ("train",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_data_gets_one_line_and_nothing_is_written(folder: Path, tmp_path: Path, spoil, words: tuple[str, ...]):
    spoil(folder)
    workdir = tmp_path / "run"
    line = complaint(program("train", f"--dataset={folder}", f"--workdir={workdir}"))
    for word in words:
        assert word in line
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--resume=maybe",), ("resume", "auto")),
        (("--epochs=many",), ("epochs", "many")),
        (("--epochs=0",), ("epochs", "at least 1", "0")),
        (("--learning_rat=1",), ("learning_rat", "learning_rate")),
        (("--correlation_into=everything",), ("correlation_into", "interactions", "everything")),
        (("--select_on=recall@7",), ("select_on", "recall@20")),
        (("--topk=5,ten",), ("topk", "integers")),
        (("--modalities=sound", "--dataset=synthetic"), ("sound", "visual")),
        (("--dataset=ml-100",), ("ml-100", "ml-100k")),
        (("--dataset=synthetic:user=3",), ("user",)),
        (("--flagfile=nowhere.flags",), ("nowhere.flags",)),
        (("stray",), ("stray", "--help")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and value and value[0].startswith("--") else "",
)
def test_bad_flags_get_one_line(tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]):
    line = complaint(program("train", f"--workdir={tmp_path / 'run'}", *flags))
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    line = complaint(program("train", *QUICK, f"--workdir={tmp_path}"))
    assert "no config.json" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_workdir_of_another_configuration_is_refused(finished: Path):
    line = complaint(program("train", *QUICK, "--width=16", f"--workdir={finished}"))
    assert "width is 16, was 8" in line
    assert "--resume=never" in line


def test_help_reads_well():
    done = program("train", "--help")
    assert "--[no]self_loop" in done.stdout
    assert "Weight gamma" in done.stdout


def test_the_flags_file_repeats_the_run(finished: Path, tmp_path: Path):
    done = program("train", f"--flagfile={finished / 'flags.txt'}", f"--workdir={tmp_path / 'again'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


def test_recommend_writes_original_ids_without_seen_items(finished: Path, tmp_path: Path):
    output = tmp_path / "recs.tsv"
    done = program("recommend", f"--workdir={finished}", "--top=5", f"--output={output}", "--sample=3")
    assert done.returncode == 0, done.stderr
    from slif_jax import data

    dataset = data.load(json.loads((finished / "config.json").read_text())["dataset"])
    rows = [line.split("\t") for line in output.read_text().splitlines()]
    assert rows[0][:4] == ["user", "rank", "item", "score"]
    seen = {
        (str(dataset.user_ids[u]), str(dataset.item_ids[i]))
        for part in (dataset.train, dataset.valid, dataset.test)
        for u, i in part
    }
    assert len(rows) == 1 + 5 * dataset.num_users
    assert not seen & {(user, item) for user, _, item, *_ in rows[1:]}
    assert [float(row[3]) for row in rows[1:6]] == sorted((float(row[3]) for row in rows[1:6]), reverse=True)

    listed = tmp_path / "users.txt"
    listed.write_text(f"{dataset.user_ids[3]}\n\nnobody\n")
    flags = (f"--workdir={finished}", f"--users={listed}", f"--output={tmp_path / 'few.tsv'}")
    line = complaint(program("recommend", *flags))
    assert "line 3" in line
    assert "nobody" in line
    assert not (tmp_path / "few.tsv").exists()


def test_recommend_before_training_says_so(tmp_path: Path):
    line = complaint(program("recommend", f"--workdir={tmp_path}", f"--output={tmp_path / 'recs.tsv'}"))
    assert "Train first" in line

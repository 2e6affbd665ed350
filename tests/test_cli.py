"""The programs, as users start them: bad input gets one line and status 2, good input gets results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, run_program

QUICK = (
    "--dataset=synthetic:users=40,items=30,clusters=3",
    "--width=8",
    "--epochs=2",
    "--correlation_start=1",
    "--correlation_warm_up=features",  # the best epoch may be the first one
    "--batch_size=128",
    "--progress=line",
)


def program(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return run_program(["-m", f"experiments.{name}", *flags], XLA_FLAGS=None)


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
    """With a Python of its own, which imports all by itself."""
    command = [sys.executable, "-m", "experiments.train", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
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


def test_what_a_run_gives(finished: Path, tmp_path: Path):
    """similar, explain and export on one run: they read it as `recommend` does."""
    near, why, folder = tmp_path / "near.jsonl", tmp_path / "why.json", tmp_path / "exported"
    done = program("similar", f"--workdir={finished}", "--by=correlation", "--top=3", f"--output={near}")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in near.read_text().splitlines()]
    assert len(rows) == 30
    item, neighbor = rows[0]["item"], rows[0]["neighbors"][0]
    assert neighbor["neighbor"] != item
    assert neighbor["weight"] > 0
    assert neighbor["title"]

    done = program("explain", f"--workdir={finished}", "--user=7", "--top=2", f"--output={why}")
    assert done.returncode == 0, done.stderr
    found = json.loads(why.read_text())
    assert [each["rank"] for each in found] == [1, 2]
    for each in found:
        assert each["user"] == "7"
        assert sum(view["score"] for view in each["views"]) == pytest.approx(each["score"], rel=1e-3, abs=1e-4)
        assert each["triples"]

    done = program("export", f"--workdir={finished}", f"--output={folder}", "--top=5")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "embeddings.npz",
        "manifest.json",
        "scorer.bin",
    ]
    assert "cpu, cuda, tpu" in done.stdout


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("similar", ("--item=99",), ("--item", "no item '99'", "nearest ids are '9'")),
        ("explain", (), ("--user=ID",)),
        ("export", ("--output=tests",), ("tests holds", "no part of an export")),
    ],
)
def test_bad_flags_of_what_a_run_gives(finished: Path, name: str, flags: tuple[str, ...], words: tuple[str, ...]):
    line = complaint(program(name, f"--workdir={finished}", *flags))
    for word in words:
        assert word in line


def test_evaluate_measures_a_run_by_every_protocol_and_leaves_it_alone(finished: Path):
    before = (finished / "result.json").read_bytes()
    done = program("evaluate", f"--workdir={finished}", "--protocol=all")
    assert done.returncode == 0, done.stderr
    result = json.loads(before)
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[0] == "protocol"
    assert rows[2:] == ["strict", "mmrec", "recbole", "kgat"]
    assert result["split_fingerprint"][:16] in done.stdout
    found = {name: json.loads((finished / f"evaluation-{name}.json").read_text()) for name in rows[2:]}
    assert found["strict"]["test"] == result["test"]
    assert found["strict"]["test_groups"] == result["test_groups"]
    assert found["kgat"]["test"]["ndcg@20"] != result["test"]["ndcg@20"]
    assert (finished / "result.json").read_bytes() == before


def test_evaluate_prints_what_it_cannot_keep(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("evaluation-*"))
    (run / "evaluation-kgat.json.partial").mkdir()  # no file can be written in its place
    done = program("evaluate", f"--workdir={run}", "--protocol=kgat")
    assert done.returncode == 0, done.stderr
    assert "kgat" in done.stdout
    assert "not kept in the run" in done.stderr
    assert not (run / "evaluation-kgat.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--workdir", "--baseline")),
        (("--baseline=popularity", "--protocol=mmrecc"), ("mmrecc", "strict, mmrec")),
        (("--baseline=popularity", "--rules=ideal=best"), ("ideal", "reachable, found")),
        (("--baseline=popularity", "--rules=patience=3"), ("patience", "rule of training")),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) and value and value[0].startswith("--") else "",
)
def test_evaluate_with_bad_flags(flags: tuple[str, ...], words: tuple[str, ...]):
    line = complaint(program("evaluate", *flags))
    for word in words:
        assert word in line


def test_check_tells_good_data_from_odd_and_unusable_ones(folder: Path, tmp_path: Path):
    report = tmp_path / "report.json"
    done = program("check", f"--dataset={folder}", f"--json={report}")
    assert done.returncode == 1, done.stderr
    assert "every item has the same features" in done.stdout
    found = json.loads(report.read_text())
    assert found["sizes"]["interactions"] == 25
    assert found["memory_bytes"]["total"] > 0
    assert "constant_features" in {entry["kind"] for entry in found["findings"] if entry["level"] == "warning"}
    np.save(folder / "visual.npy", np.arange(18, dtype=np.float32).reshape(6, 3) + 1)
    assert program("check", f"--dataset={folder}").returncode == 0
    spoil_word(folder)
    assert "line 27" in complaint(program("check", f"--dataset={folder}"))

"""The folder of a run: what is made, what is refused, and what survives a crash."""

import errno
import json
import os
import socket

import pytest

from slif_jax.config import Config
from slif_jax.workdir import Workdir, WorkdirError, config_differences, environment, peak_memory_bytes


def open_run(path, config=None, resume="auto", fingerprint="abc"):
    return Workdir(path).open(config or Config(), resume=resume, data_fingerprint=fingerprint)


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_a_new_folder_gets_config_and_environment(tmp_path):
    path = tmp_path / "deep" / "run"
    open_run(path, Config(width=8))
    assert names(path) == ["config.json", "environment.json"]
    stored = json.loads((path / "config.json").read_text())
    assert stored.pop("data_fingerprint") == "abc"
    assert Config.from_dict(stored) == Config(width=8)
    assert json.loads((path / "environment.json").read_text())["packages"]["jax"]


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_run_of_the_same_configuration_goes_on(tmp_path, resume):
    open_run(tmp_path)
    before = (tmp_path / "config.json").stat().st_mtime_ns
    open_run(tmp_path, resume=resume)
    assert (tmp_path / "config.json").stat().st_mtime_ns == before


def test_more_epochs_are_no_other_configuration(tmp_path):
    open_run(tmp_path, Config(epochs=5))
    open_run(tmp_path, Config(epochs=9))
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 5  # as long as nothing was trained
    Workdir(tmp_path).write_run_files(Config(epochs=9), "data", None)
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 9


def test_another_configuration_is_refused_and_named(tmp_path):
    open_run(tmp_path, Config(seed=1))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(
        WorkdirError, match=r"another configuration: seed is 2, was 1; width is 8, was 64.*--resume=never"
    ):
        open_run(tmp_path, Config(seed=2, width=8))
    assert (tmp_path / "config.json").read_text() == before


def test_other_data_are_refused(tmp_path):
    open_run(tmp_path)
    with pytest.raises(WorkdirError, match="was trained on other data than 'ml-100k' holds now"):
        open_run(tmp_path, fingerprint="xyz")


def test_must_needs_a_run(tmp_path):
    with pytest.raises(WorkdirError, match="holds no run to resume"):
        open_run(tmp_path / "new", resume="must")
    assert not (tmp_path / "new").exists()


def test_never_starts_over(tmp_path):
    open_run(tmp_path, Config(seed=1))
    folder = Workdir(tmp_path)
    folder.append_metrics({"epoch": 1})
    folder.write_json("result.json", {"epochs": 1})
    for part in (folder.checkpoints, folder.plots):
        part.mkdir()
        (part / "file").write_text("old")
    open_run(tmp_path, Config(seed=2), resume="never")
    assert names(tmp_path) == ["config.json", "environment.json"]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_files_that_are_no_run_are_left_alone(tmp_path, resume):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkdirError, match=r"holds files, but no config\.json of a run"):
        open_run(tmp_path, resume=resume)
    assert names(tmp_path) == ["thesis.txt"]


def test_never_starts_over_beside_a_file_of_the_user(tmp_path):
    open_run(tmp_path, Config(seed=1))
    (tmp_path / "notes.txt").write_text("mine")
    open_run(tmp_path, Config(seed=2), resume="never")
    assert Workdir(tmp_path).stored_config() == (Config(seed=2), "abc")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(WorkdirError, match="is a file"):
        open_run(path)


def test_spoilt_json_is_named_with_its_line(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 1,\n"width" 8}\n')
    with pytest.raises(WorkdirError, match=r"config\.json, line 2: not valid JSON"):
        open_run(tmp_path)


def test_a_config_of_another_version_is_refused_with_the_folder(tmp_path):
    open_run(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "drop_rate": 0.1}))
    with pytest.raises(WorkdirError, match=f"{tmp_path}.*drop_rate"):
        open_run(tmp_path)


def test_unknown_ways_to_resume_are_refused(tmp_path):
    open_run(tmp_path)
    with pytest.raises(ValueError, match=r"auto, never, must.*'Never'"):
        open_run(tmp_path, resume="Never")


def test_reading_what_is_not_there(tmp_path):
    folder = Workdir(tmp_path)
    assert folder.read_json("result.json") is None
    assert folder.read_metrics() == []


def test_files_are_replaced_whole(tmp_path):
    folder = Workdir(str(tmp_path))
    folder.write_json("result.json", {"a": 1, "long": "x" * 100})
    folder.write_json("result.json", {"a": 2})
    assert folder.read_json("result.json") == {"a": 2}
    assert names(tmp_path) == ["result.json"]


def test_metrics_come_back_in_order_without_a_line_that_was_cut_short(tmp_path):
    folder, rows = Workdir(tmp_path), [{"epoch": epoch, "loss": {"loss": 0.1 / epoch}} for epoch in (1, 2, 3)]
    for row in rows:
        folder.append_metrics(row)
    assert folder.read_metrics() == rows
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert folder.read_metrics() == rows[:2]


@pytest.mark.parametrize("line", ["{", "[1]", "\x00\xff", '{"loss": 1}'])
def test_a_spoilt_line_among_the_metrics_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n')
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl, line 2: not an epoch"):
        Workdir(tmp_path).read_metrics()


def test_epochs_that_are_run_again_are_dropped(tmp_path):
    folder = Workdir(tmp_path)
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    folder.keep_metrics(2)
    folder.append_metrics({"epoch": 3, "again": True})
    assert folder.read_metrics() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "again": True}]
    folder.keep_metrics(0)
    assert folder.read_metrics() == []


def test_differences_of_configs():
    old = Config(topk=(5, 20), epochs=3)
    assert config_differences(old, Config(topk=(5, 20), epochs=30)) == []
    assert config_differences(old, Config(topk=(5, 20), gather_blocks=4)) == []
    assert config_differences(old, Config(topk=(20,), epochs=3)) == ["topk is [20], was [5, 20]"]
    fields = old.to_dict()
    del fields["seed"]  # written before the field existed: its default was used
    assert config_differences(Config.from_dict(fields), Config(topk=(5, 20), seed=1)) == ["seed is 1, was 0"]


def test_the_machine_is_described():
    described = environment()
    assert json.loads(json.dumps(described)) == described
    assert described["devices"]
    assert described["cpu_count"] >= 1
    assert peak_memory_bytes() > 2**24


def test_a_folder_in_use_is_refused_with_process_and_host(tmp_path):
    with Workdir(tmp_path / "run").lock():
        with (
            pytest.raises(WorkdirError, match=rf"in use by process {os.getpid()} on {socket.gethostname()}"),
            Workdir(tmp_path / "run").lock(),
        ):
            pass
        assert (tmp_path / "run" / "lock").is_file()
        open_run(tmp_path / "run")
    assert names(tmp_path / "run") == ["config.json", "environment.json"]
    with Workdir(tmp_path / "run").lock():
        pass


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text('{"process": 1, "host": "elsewhere"}')  # nobody holds it
    open_run(tmp_path)
    with Workdir(tmp_path).lock():
        assert json.loads((tmp_path / "lock").read_text()) == {"process": os.getpid(), "host": socket.gethostname()}


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("", True),
        ("{", True),
        ('{"process": 4194999, "host": "HERE"}', True),  # above Linux' largest number of a process
        ('{"process": 1, "host": "HERE"}', False),
        ('{"process": 4194999, "host": "elsewhere"}', False),
    ],
)
def test_without_locks_of_the_file_system_the_file_tells(tmp_path, monkeypatch, text, free):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("slif_jax.workdir.fcntl.flock", no_locks)
    (tmp_path / "lock").write_text(text.replace("HERE", socket.gethostname()))
    if free:
        with Workdir(tmp_path).lock():
            pass
        return
    with pytest.raises(WorkdirError, match=r"in use by process.*remove .*lock"), Workdir(tmp_path).lock():
        pass


def test_a_lock_leaves_no_folder_where_nothing_was_written(tmp_path):
    with Workdir(tmp_path / "run").lock():
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left", ["lock", "config.json.partial"])
def test_what_a_process_killed_at_its_start_left_is_no_file_of_a_stranger(tmp_path, left):
    (tmp_path / left).write_text("")
    open_run(tmp_path, Config(width=8))
    assert Workdir(tmp_path).stored_config() == (Config(width=8), "abc")


def test_a_run_killed_before_it_described_its_machine_does_so_later(tmp_path):
    open_run(tmp_path)
    (tmp_path / "environment.json").unlink()
    open_run(tmp_path)
    assert (tmp_path / "environment.json").is_file()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    folder = Workdir(tmp_path)
    folder.write_json("result.json", {"a": 1})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("slif_jax.workdir.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write_json("result.json", {"a": 2})
    assert folder.read_json("result.json") == {"a": 1}
    assert names(tmp_path) == ["result.json"]

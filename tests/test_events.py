"""TensorBoard events: what is written is read back, record by record."""

import builtins
import struct
from collections import defaultdict
from pathlib import Path

import pytest

from slif_jax.events import scalars, with_tensorboard


def row(epoch: int, *, valid: bool = True, kept: float | None = None) -> dict:
    return {
        "epoch": epoch,
        "loss": {"loss": 1.0 / epoch, "recommendation": 0.5},
        "valid": {"recall@20": 0.25 * epoch} if valid else {},
        "correlation_kept": kept,
        "norms": {"gradient_norm": 2.0 * epoch},
    }


def read(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """The scalars of all event files by tag, and the steps from which a restart takes over."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    found, restarts = defaultdict(list), []
    for path in sorted(folder.glob("events.*")):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack("<Q", content[start : start + 8])  # a TFRecord: length, its sum, data, its sum
            event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
            start += 16 + length
            if event.HasField("session_log"):
                restarts.append(event.step)
            for value in event.summary.value:
                found[value.tag].append((event.step, round(value.simple_value, 6)))
    return dict(found), restarts


def write(folder: Path, rows: list[dict], *, start: int = 0) -> None:
    make = with_tensorboard("off", folder)
    with make(epochs=3, start=start, metric="recall@20") as reporter:
        reporter.say("training")
        for each in rows:
            reporter.epoch(each, best=0.0)


def test_tags_name_the_part_and_the_metric():
    assert scalars(row(2, kept=0.75)) == {
        "loss/loss": 0.5,
        "loss/recommendation": 0.5,
        "valid/recall_at_20": 0.5,
        "correlation/edges_kept": 0.75,
        "norms/gradient_norm": 4.0,
    }
    assert set(scalars(row(1, valid=False))) == {"loss/loss", "loss/recommendation", "norms/gradient_norm"}


def test_events_are_read_back(tmp_path: Path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    write(tmp_path / "tensorboard", [row(1), row(2, kept=0.5)])
    found, _ = read(tmp_path / "tensorboard")
    assert found["loss/loss"] == [(1, 1.0), (2, 0.5)]
    assert found["valid/recall_at_20"] == [(1, 0.25), (2, 0.5)]
    assert found["correlation/edges_kept"] == [(2, 0.5)]


def test_a_resumed_run_takes_over_after_its_checkpoint(tmp_path: Path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    write(tmp_path, [row(1), row(2)])
    write(tmp_path, [row(2), row(3)], start=1)
    _, restarts = read(tmp_path)
    assert 2 in restarts
    write(tmp_path / "done", [], start=3)
    assert not (tmp_path / "done").exists()


def test_without_the_package_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name.startswith("tensorboardX"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'slif_jax\[tensorboard\]'"):
        with_tensorboard("off", tmp_path)

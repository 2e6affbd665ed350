"""What experiments.scaling measures, and what it makes of it."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import scaling_tables as tables
from slif_jax.config import Config
from slif_jax.data.synthetic import synthetic
from slif_jax.meshes import make_mesh
from slif_jax.scaling import Measurement, efficiency, measure

MADE_UP = Measurement(
    mesh="data:1",
    devices=1,
    users=10,
    items=10,
    interactions=1000,
    steps=5,
    step_seconds=0.2,
    propagate_seconds=0.1,
    update_seconds=0.02,
    exchange_seconds=0.0,
    rebuild_seconds=0.3,
    evaluate_seconds=0.4,
    sent_bytes=0.0,
    argument_bytes=2_000_000,
    temporary_bytes=3_000_000,
)


def test_shares_and_efficiency():
    assert MADE_UP.throughput == pytest.approx(1000)
    assert MADE_UP.loss_seconds == pytest.approx(0.08)
    halved = dataclasses.replace(MADE_UP, devices=4, step_seconds=0.1)
    assert efficiency(MADE_UP, halved, weak=False) == pytest.approx(0.5)
    assert efficiency(MADE_UP, halved, weak=True) == pytest.approx(2.0)


@pytest.mark.usefixtures("standard_promotion")
def test_a_mesh_is_measured():
    config = Config(dataset="synthetic", width=8, side_information=False, batch_size=128, softmax_negatives=16)
    mesh = make_mesh("data:2")
    assert mesh is not None
    found = measure(synthetic(40, 30, num_clusters=3), config, mesh, name="data:2", rounds=1)
    assert found.devices == 2
    assert found.steps == -(-found.interactions // 128)
    seconds = [getattr(found, field.name) for field in dataclasses.fields(found) if field.name.endswith("_seconds")]
    assert min(seconds) > 0
    # Two layers over users and items, forward and backward, are exchanged in any case.
    assert found.sent_bytes > 2 * 2 * (40 + 30) * 8 * 4 / 2
    assert found.argument_bytes > 2 * 4 * (40 + 30) * 8 / 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:1 data:2", ["data:1", "data:2"]),
        ("data:1,data:2,data:4", ["data:1", "data:2", "data:4"]),
        ("data:4,model:2", ["data:4,model:2"]),
        ("data:2;data:4,model:2", ["data:2", "data:4,model:2"]),
        ("data:8", ["data:8"]),
    ],
)
def test_lists_of_meshes(text: str, expected: list[str]):
    assert tables.read_meshes(text) == expected


def test_table_and_plot(tmp_path: Path):
    other = dataclasses.replace(MADE_UP, mesh="data:8", devices=8, exchange_seconds=0.01, sent_bytes=5e6)
    rows = [tables.row(one, MADE_UP, weak=True) for one in (MADE_UP, other)]
    report = {"scaling": "weak", "command": "python", "devices": "cpu, 8", "virtual": True, "rows": rows}
    text = tables.markdown(json.loads(json.dumps(report)))
    assert (
        "| data:8 | 1,000 | 1,000 | 200.0 | 100.0 | 80.0 | 20.0 | 10.0 | 300.0 | 400.0 | 5.0 | 2.0 | 3.0 | 100% |"
        in text
    )
    assert "no speed-up" in text
    tables.plot(report).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000

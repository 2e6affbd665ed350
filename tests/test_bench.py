import json

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import bench, bench_ops, bench_shares, bench_training

TINY = bench_ops.Case(40, 200, 30, "synthetic:users=30,items=30,mean_degree=6,relations=2,modalities=text:4")

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optax


@pytest.fixture
def run(monkeypatch, tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["bench", f"--output={tmp_path}/unused.json"])
    monkeypatch.setattr(bench, "CASES", {"tiny": TINY})

    def run(**settings):
        output = tmp_path / "bench.json"
        with flagsaver.flagsaver(output=str(output), cases=["tiny"], seconds=0.0, **settings):
            bench.main()
        return json.loads(output.read_text())["rows"]

    return run


@pytest.mark.parametrize("ops", [list(bench_ops.GRAPH_OPS), ["topk", "rebuild", "evaluate"]])
def test_every_operation_gives_rows(run, ops, tmp_path):
    rows = run(ops=ops)
    assert {row["op"] for row in rows} == set(ops)
    for row in rows:
        assert row["ms_min"] <= row["ms_median"]
        if row["peer_ms_median"] is None:
            assert row["peer"].endswith("not installed")
        else:
            assert row["speedup"] == pytest.approx(row["peer_ms_median"] / row["ms_median"])
    assert (tmp_path / "bench.png").stat().st_size > 0


def test_without_peers(run, capsys):
    (row,) = run(ops=["epoch"], peers=False)
    assert row["peer_ms_median"] is None
    assert row["share_of_roofline"] is None
    assert row["ms_median"] > 0
    assert row["peak_memory_bytes"] > 0
    assert "Peak memory" in capsys.readouterr().out


def test_unknown_names_are_refused(run):
    with pytest.raises(ValueError, match="--ops has no 'spm'"):
        run(ops=["spm"])


def test_a_long_epoch_is_timed_over_its_first_steps():
    from slif_jax import data
    from slif_jax.config import Config
    from slif_jax.train_step import training_data

    config = Config(batch_size=2)
    examples = training_data(data.load(TINY.data), config)
    count = examples.num_examples
    short, scale = bench_training.first_steps(examples, config)
    assert short.num_examples == 2 * bench_training.FIRST_STEPS
    assert scale == -(-count // 2) / bench_training.FIRST_STEPS
    same, scale = bench_training.first_steps(examples, Config())
    assert same is examples
    assert scale == 1.0


def test_calls_that_time_themselves_are_believed():
    times = bench.interleave({"own": lambda: 7.0, "clock": lambda: jax.numpy.zeros(3)}, 0.0)
    assert times["own"] == [7.0] * 3
    assert len(times["clock"]) == 3


def test_lines_of_a_program_have_a_part():
    assert bench_shares.part_of('custom_call_target="slif_spmm", op_name="jit(run_epoch)/sampling/x"') == "spmm"
    assert bench_shares.part_of('op_name="jit(run_epoch)/while/body/sampling/gather"') == "sampling"
    assert bench_shares.part_of('op_name="jit(run_epoch)/while/body/gather"') == bench_shares.REST

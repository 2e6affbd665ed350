"""The estimate of memory: parameters are counted exactly, graphs nearly, a step's arrays as the compiler has them."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from slif_jax import memory, ops
from slif_jax.config import Config
from slif_jax.correlation import empty
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import Graphs, build_graphs
from slif_jax.memory import WillNotFitError, check_fits
from slif_jax.model import make_model
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.train_step import make_run_epoch, training_data

DATASET = synthetic(num_users=300, num_items=200)
BASE = Config(width=8, correlation_neighbors=4)
native = pytest.mark.skipif(not ops.is_supported("spmm", "native"), reason="counted for the native kernels")


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return build_graphs(DATASET, BASE)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"knowledge_layers": 3, "correlation_into": ("features",), "learn_feature_correlation": True},
        {"missing_features": "learned", "knowledge_graph": False},
        {"modalities": ("none",)},
        {"side_information": False},
    ],
    ids=str,
)
def test_parameters_are_counted(graphs: Graphs, change: dict):
    config = dataclasses.replace(BASE, **change)
    model = make_model(DATASET, config)
    loop = jax.eval_shape(lambda: empty(DATASET.num_items, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), graphs, loop)
    assert memory.num_parameters(DATASET, config) == sum(leaf.size for leaf in jax.tree.leaves(shapes))


@native
def test_graphs_and_features_take_what_is_estimated(graphs: Graphs):
    parts = memory.estimate(DATASET, BASE)
    taken = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(graphs))
    np.testing.assert_allclose(parts["graphs"] + parts["features"], taken, rtol=0.02)
    assert parts["total"] == sum(value for name, value in parts.items() if name != "total")


def test_what_is_dealt_out_must_fit_into_the_host(monkeypatch: pytest.MonkeyPatch):
    check_fits(DATASET, BASE, 10**12, devices=8)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # devices with a memory of their own
    check_fits(DATASET, BASE, 10**12, devices=8)
    monkeypatch.setattr(memory, "system_bytes", lambda _: 1000)
    check_fits(DATASET, BASE, 10**12, devices=1)
    with pytest.raises(WillNotFitError, match="one process per host"):
        check_fits(DATASET, BASE, 10**12, devices=8)


def test_what_is_switched_off_takes_nothing():
    off = memory.estimate(DATASET, dataclasses.replace(BASE, side_information=False))
    on = memory.estimate(DATASET, BASE)
    assert off["features"] == 0
    assert off["graphs"] < on["graphs"]
    assert memory.estimate(DATASET, dataclasses.replace(BASE, parameter_momentum=0.0))["average of the parameters"] == 0
    summed = memory.estimate(DATASET, dataclasses.replace(BASE, accumulate_steps=2))
    assert summed["optimizer"] == on["optimizer"] + on["parameters"]
    wide = memory.estimate(DATASET, dataclasses.replace(BASE, width=16))
    assert wide["parameters"] > 1.9 * on["parameters"]


def test_what_linear_models_need_between_epochs_counts():
    name = "between epochs, beyond that of a step"
    small = dataclasses.replace(BASE, batch_size=8, softmax_negatives=8)
    wide = dataclasses.replace(small, regression_weight=0.1, regression_rank=1000)
    plain, tuned = memory.estimate(DATASET, small), memory.estimate(DATASET, wide)
    fixed = memory.estimate(DATASET, dataclasses.replace(wide, tune_linear_weights=False))
    columns = min(1000, DATASET.num_users, DATASET.num_items)
    lists = 4 * 100 * (256 * (small.width + columns) + 4096 * 2)
    assert tuned[name] > fixed[name] >= plain[name]
    assert tuned[name] > 0.9 * lists - tuned["within a step"] - tuned["messages"]
    by_vectors = memory.estimate(DATASET, dataclasses.replace(wide, correlation_by="vectors"))
    assert tuned["self-loop"] - by_vectors["self-loop"] == 4 * (small.width + columns) ** 2


# Shapes that the constants were not fitted to.
@native
@pytest.mark.usefixtures("standard_promotion")  # for optax
@pytest.mark.parametrize(
    ("sizes", "change"),
    [
        ({"num_users": 3000, "num_items": 900, "mean_degree": 8, "num_relations": 0, "modalities": {}}, {"width": 128}),
        ({"num_users": 700, "num_items": 1500, "num_entities": 4000, "modalities": {"text": 48}}, {}),
    ],
    ids=["plain, width 128", "knowledge and text"],
)
def test_a_step_takes_what_the_compiler_says_to_a_quarter(sizes: dict, change: dict):
    dataset, config = synthetic(**sizes), Config(**change)
    static, model, data = build_graphs(dataset, config), make_model(dataset, config), training_data(dataset, config)
    state = init_train_state(model, static, config)
    compiled = make_run_epoch(model, make_optimizer(config)).lower(state, static, data).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    parts = memory.estimate(dataset, config)
    np.testing.assert_allclose(parts["within a step"], analysis.temp_size_in_bytes, rtol=0.25)
    names = ("parameters", "optimizer", "average of the parameters", "self-loop", "graphs", "features")
    held = sum(parts[name] for name in names) + parts["interactions for sampling"]
    np.testing.assert_allclose(held, analysis.argument_size_in_bytes, rtol=0.1)


def test_what_fits_is_let_through():
    parts = check_fits(DATASET, BASE, available_bytes=2**40)
    assert parts == memory.estimate(DATASET, BASE)
    assert check_fits(DATASET, BASE)["total"] == parts["total"]  # and this machine has room for so little


def test_what_does_not_fit_is_refused_with_numbers_and_a_remedy():
    config = Config(batch_size=65536, softmax_negatives=4096)
    needed = memory.estimate(DATASET, config)["total"]
    with pytest.raises(WillNotFitError) as refused:
        check_fits(DATASET, config, available_bytes=needed // 2)
    text = str(refused.value)
    assert memory.gib(needed) in text
    assert memory.gib(needed // 2) in text
    assert "within a step" in text
    size = int(text.split("--batch_size=")[1].split(":")[0])
    check_fits(DATASET, dataclasses.replace(config, batch_size=size), available_bytes=needed // 2)
    with pytest.raises(WillNotFitError):
        check_fits(DATASET, dataclasses.replace(config, batch_size=2 * size), available_bytes=needed // 2)


def test_hopeless_cases_are_told_as_such():
    with pytest.raises(WillNotFitError, match="no setting alone"):
        check_fits(DATASET, BASE, available_bytes=1000)


def test_a_mesh_takes_less_per_device():
    plain = Config(side_information=False)
    one, eight = (memory.estimate(DATASET, plain, devices=devices) for devices in (1, 8))
    for name in ("parameters", "optimizer", "average of the parameters"):
        assert eight[name] <= -(-one[name] // 8) + 8, name  # one more number where rows do not divide
    assert eight["total"] < one["total"] / 4


@pytest.mark.parametrize(
    ("files", "membership", "left"),
    [
        ({"memory.max": "1000", "memory.current": "400"}, "0::/", 600),
        ({"a/memory.max": "max", "a/memory.current": "1", "memory.max": "900", "memory.current": "1"}, "0::/a", 899),
        ({"a/b/memory.max": "50", "a/b/memory.current": "10", "a/memory.max": "max"}, "0::/a/b", 40),
        ({"memory/c/memory.limit_in_bytes": "70", "memory/c/memory.usage_in_bytes": "80"}, "4:memory:/c", 0),
        ({"memory.max": "700", "memory.current": "100"}, "0::/not/mounted/here", 600),
    ],
)
def test_limits_of_control_groups_hold(tmp_path: Path, files: dict[str, str], membership: str, left: int):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "self").write_text(f"9:pids:/x\n{membership}\n")
    assert memory.group_bytes(tmp_path, tmp_path / "self") == left


def test_without_control_groups_there_is_no_limit(tmp_path: Path):
    assert memory.group_bytes(tmp_path, tmp_path / "absent") > 2**60


def test_the_system_tells_what_is_free(tmp_path: Path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 10 kB\nMemAvailable:   7 kB\n")
    assert memory.system_bytes(file) == 7 * 1024
    assert memory.system_bytes(tmp_path / "absent") > 2**20

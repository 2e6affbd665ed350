"""Plans: bytes and exchanges worked by hand, rooflines on a made-up machine, and remedies that are true."""

import dataclasses
import itertools
import json
import math
import time
from pathlib import Path

import pytest
from programs import run_program

from slif_jax import hlo, planning
from slif_jax.config import Config
from slif_jax.data.synthetic import synthetic
from slif_jax.engine import mesh_program
from slif_jax.graphs import build_graphs
from slif_jax.meshes import make_mesh
from slif_jax.model import make_model
from slif_jax.planning import Accelerator, Sizes, accelerator, device_bytes, plan
from slif_jax.planning.calibration import Probes, calibrate
from slif_jax.planning.exchanges import evaluate_exchanges, rebuild_exchanges, step_exchanges
from slif_jax.planning.plans import seconds_of
from slif_jax.planning.remedies import Setting, gib
from slif_jax.planning.work import Work, evaluate_work, num_steps, rebuild_work, step_work
from slif_jax.train_state import init_train_state
from slif_jax.train_step import training_data

PLAIN = Config(side_information=False, width=8, batch_size=64, softmax_negatives=16)
FULL = Config(width=8, batch_size=64, softmax_negatives=16, knowledge_batch=64, consistency_batch=64)
CONTRASTED = dataclasses.replace(FULL, collaborative_consistency_weight=0.1)
SIZES = Sizes(
    num_users=8000, num_items=4000, num_edges=64_000, num_entities=9000, num_triples=20_000, modalities=(32, 16)
)
TABLES = ("parameters", "optimizer", "average of the parameters")
# Every rate is a power of ten, so that times can be read off.
MACHINE = Accelerator(
    name="made up",
    memory=10**9,
    products=1e9,
    products_bf16=2e9,
    streamed=1e6,
    gathered=1e6,
    scattered=1e6,
    functions=math.inf,
    link=1e6,
    group=4,
    network=1e5,
    latency=0.5,
)


def test_sizes_are_those_of_the_data_that_the_switches_leave():
    dataset = synthetic(num_users=60, num_items=40, modalities={"a": 6, "b": 4})
    sizes = planning.sizes_of(dataset, Config(modalities=("b",), knowledge_graph=False))
    assert (sizes.num_users, sizes.num_items, sizes.num_edges) == (60, 40, len(dataset.train))
    assert (sizes.modalities, sizes.num_triples, sizes.num_entities, sizes.num_views) == ((4,), 0, 40, 1)
    both = planning.sizes_of(dataset, Config())
    assert (both.modalities, both.num_triples, both.num_entities) == ((6, 4), len(dataset.triples), 60)
    assert both.num_cold == 40 - len(set(dataset.train[:, 1].tolist()))
    assert SIZES.used(PLAIN).num_views == 0


@pytest.mark.parametrize("wrong", [{"num_edges": 0}, {"num_entities": 3}, {"modalities": (-1,)}], ids=str)
def test_sizes_that_no_data_have_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=r"must|counts"):
        dataclasses.replace(SIZES, **wrong)


def test_tables_are_shared_out_by_rows():
    one, eight = device_bytes(SIZES, PLAIN), device_bytes(SIZES, PLAIN, devices=8)
    assert one["parameters"] == 4 * 12_000 * 8
    assert one["optimizer"] == 2 * one["average of the parameters"] == 2 * one["parameters"]
    assert eight["parameters"] == one["parameters"] // 8
    assert one["gathered sources"] == 0
    # The widest moment: gradients of all nodes' rows on their way back, and no correlation graph.
    assert eight["gathered sources"] == 4 * 12_000 * 8


def test_what_grows_with_the_mesh_is_what_is_not_shared():
    for devices in (2, 4, 16):
        less, more = (device_bytes(SIZES, FULL, devices=n) for n in (devices, 2 * devices))
        for name in (*TABLES, "self-loop", "graphs", "features", "interactions for sampling", "within a step"):
            assert more[name] < less[name], name
        assert more["gathered sources"] == less["gathered sources"]


def test_what_takes_less():
    built = device_bytes(SIZES, FULL, devices=8)
    half = device_bytes(SIZES, dataclasses.replace(FULL, precision="bf16"), devices=8)
    blocks = dataclasses.replace(FULL, gather_blocks=4)
    cut = device_bytes(SIZES, blocks, devices=8)
    assert half["gathered sources"] == built["gathered sources"] // 2
    assert half["optimizer"] == built["optimizer"]
    # Three hops' worth of entities stay; users, items (twice), two modalities and three views come in blocks.
    assert cut["gathered sources"] == 4 * 8 * (3 * 9000 + (8000 + (2 + 2 + 3) * 4000) // 4)
    assert device_bytes(SIZES, blocks) == device_bytes(SIZES, FULL)  # one device gathers nothing
    own = device_bytes(SIZES, dataclasses.replace(FULL, loss="bpr"), devices=8)
    assert own["interactions for sampling"] == built["interactions for sampling"] + 4 * SIZES.num_edges


def test_columns_in_blocks_are_exchanged_more_often_and_as_much():
    whole, cut = (step_exchanges(SIZES, dataclasses.replace(FULL, gather_blocks=n), 8) for n in (1, 4))
    for a, b in zip(whole, cut, strict=True):
        assert a.num_bytes * a.times == pytest.approx(b.num_bytes * b.times)
    assert {b.name for a, b in zip(whole, cut, strict=True) if b.times == 4 * a.times} == {
        "interactions",
        "feature graphs",
        "users of the views",
    }


def test_exchanges_of_the_plain_model_by_hand():
    found = {e.name: (e.num_bytes, e.times) for e in step_exchanges(SIZES, PLAIN, 4)}
    away = 3 / 4
    assert found["interactions"] == (4 * 12_000 * 8 * away, 4)  # two layers, there and back
    assert found["shared negatives"] == (2 * 4 * 16 * 8 * away, 1)  # a sum over devices counts twice
    assert set(found) == {
        "interactions",
        "which interactions",
        "users of the batch",
        "items of the batch",
        "shared negatives",
    }  # there are no small parameters
    assert step_exchanges(SIZES, PLAIN, 1) == []


def test_exchanges_of_all_views_by_hand():
    found = {e.name: (e.num_bytes, e.times) for e in step_exchanges(SIZES, FULL, 2)}
    rows = 4 * 8 / 2  # bytes of a row of width 8, half of which are away
    assert found["feature graphs"] == (4000 * rows, 4)
    assert found["knowledge"] == (9000 * rows, 4)
    assert found["users of the views"] == (4000 * 3 * rows, 2)
    one_way = {e.name: e.times for e in evaluate_exchanges(SIZES, FULL, 2)}
    assert one_way == {
        "interactions": 2,
        "feature graphs": 2,
        "knowledge": 2,
        "users of the views": 1,
        "item vectors": 1,
        "covariance of users": 1,
    }


def test_a_rebuild_by_scores_compares_the_columns_of_linear_models_too():
    scores = dataclasses.replace(FULL, regression_weight=0.1, regression_rank=100)
    vectors = dataclasses.replace(scores, correlation_by="vectors")
    assert [e.num_bytes for e in rebuild_exchanges(SIZES, vectors, 4)] == [4 * 4000 * 9 * 3 / 4]
    assert [e.num_bytes for e in rebuild_exchanges(SIZES, scores, 4)] == [4 * 4000 * 109 * 3 / 4]
    name = "covariance of users"
    assert name not in {e.name for e in evaluate_exchanges(SIZES, vectors, 4)}
    assert {e.name: e.num_bytes for e in evaluate_exchanges(SIZES, scores, 4)}[name] == 2 * 4 * 108**2 * 3 / 4
    products = [sum(w.products for w in rebuild_work(SIZES, config)) for config in (vectors, scores)]
    assert products[1] - products[0] == 2 * 4000**2 * 100 + 2 * 4000 * 108**2 + 9 * 108**3
    covariance = [[w.products for w in evaluate_work(SIZES, c) if w.name == name] for c in (vectors, scores)]
    assert covariance == [[], [2 * SIZES.num_users * 108**2]]


@pytest.mark.usefixtures("standard_promotion")  # for optax
@pytest.mark.parametrize("config", [PLAIN, dataclasses.replace(CONTRASTED, width=16)], ids=["plain", "all views"])
def test_exchanges_are_those_of_the_compiled_program(config: Config):
    dataset = synthetic(num_users=600, num_items=400, num_entities=900, modalities={"a": 6, "b": 4})
    model, graphs, data = make_model(dataset, config), build_graphs(dataset, config), training_data(dataset, config)
    state, mesh = init_train_state(model, graphs, config), make_mesh("data:4")
    assert mesh is not None
    program = mesh_program(dataset, model, graphs, data, state, mesh)
    compiled = program.run_epoch.lower(program.sharder.state(state), program.graphs, program.data).compile()
    sent = sum(entry.sent_bytes(4) for entry in hlo.collectives(compiled) if entry.in_loop)
    planned = sum(e.num_bytes * e.times for e in step_exchanges(planning.sizes_of(dataset, config), config, 4))
    assert planned == pytest.approx(sent, rel=0.1)


def test_a_batch_longer_than_a_table_exchanges_one_array():
    small = dataclasses.replace(SIZES, num_users=50, num_items=30, num_entities=60)
    for sizes, times in ((small, 2), (SIZES, 8)):  # four views
        rows = {e.name: e.times for e in step_exchanges(sizes, FULL, 2) if e.name.endswith("of the batch")}
        assert rows == {"users of the batch": times, "items of the batch": times}


def test_work_is_shared_out_and_grows_with_what_causes_it():
    def total(sizes: Sizes, config: Config, part: str, devices: int = 1) -> float:
        work = [w for w in step_work(sizes, config, devices=devices) if w.part == part]
        return sum(w.streamed + w.gathered + w.scattered for w in work)

    assert total(SIZES, FULL, "propagate", 4) < 0.5 * total(SIZES, FULL, "propagate")
    more_edges = dataclasses.replace(SIZES, num_edges=2 * SIZES.num_edges)
    assert total(more_edges, FULL, "propagate") > 1.2 * total(SIZES, FULL, "propagate")
    deeper = dataclasses.replace(PLAIN, interaction_layers=4)
    assert total(SIZES, deeper, "propagate") == pytest.approx(2 * total(SIZES, PLAIN, "propagate"), rel=0.2)
    assert total(SIZES, PLAIN, "update") == 7 * 4 * 12_000 * 8  # Adam reads four arrays and writes three
    rarely = dataclasses.replace(PLAIN, accumulate_steps=7)
    assert total(SIZES, rarely, "update") == pytest.approx((3 + 1) * 4 * 12_000 * 8)
    nearest = rebuild_work(SIZES, FULL, devices=4)[0]
    assert nearest.products == 2 * 1000 * 4000 * 8


def test_messages_cost_what_native_kernels_save():
    def streamed(native: bool) -> float:
        return sum(w.streamed for w in step_work(SIZES, PLAIN, native_kernels=native))

    # Of each of 128,000 edges, in two layers and both ways, a message is written and read.
    assert streamed(False) - streamed(True) == 2 * 2 * 2 * 128_000 * 8 * 4
    assert device_bytes(SIZES, PLAIN, native_kernels=False)["messages"] == 128_000 * 8 * 4
    assert device_bytes(SIZES, PLAIN)["messages"] == 0


def test_an_operation_takes_as_long_as_its_slowest_rate():
    seconds = seconds_of(Work("loss", "x", products=2e9, streamed=1e6, gathered=5e5), MACHINE)
    assert seconds == {"products": 2.0, "functions": 0.0, "memory": 1.5}


def test_half_the_numbers_go_over_the_graphs_in_half_the_time():
    half = dataclasses.replace(PLAIN, precision="bf16")
    found = {e.name: e.num_bytes for e in step_exchanges(SIZES, PLAIN, 4)}
    halved = {e.name: e.num_bytes for e in step_exchanges(SIZES, half, 4)}
    assert halved["interactions"] == found["interactions"] / 2
    assert halved["users of the batch"] == found["users of the batch"]
    gathered = [sum(w.gathered for w in step_work(SIZES, config)) for config in (PLAIN, half)]
    assert gathered[1] == gathered[0] / 2


def test_a_plan_adds_up():
    made = plan(SIZES, FULL, {"data": 2, "model": 2}, MACHINE)
    assert made.devices == 4
    assert made.num_steps == num_steps(SIZES, FULL) == 1000
    of_step = [made.parts[name].seconds for name in ("propagate", "loss", "update", "collectives")]
    assert made.step_seconds == pytest.approx(sum(of_step))
    collectives = sum(e.times * (e.num_bytes / 1e6 + 0.5) for e in made.exchanges)
    assert made.parts["collectives"].seconds == pytest.approx(collectives)
    assert made.epoch_seconds == pytest.approx(1000 * made.step_seconds + made.rebuild_seconds + made.evaluate_seconds)
    assert made.interactions_per_second == pytest.approx(64_000 / made.epoch_seconds)
    assert made.fits
    assert made.remedies == ()
    assert json.loads(json.dumps(made.to_dict(), allow_nan=False))["total_bytes"] == made.total_bytes


def test_one_device_exchanges_nothing():
    made = plan(SIZES, FULL, {}, MACHINE)
    assert made.parts["collectives"].seconds == 0
    assert made.parts["collectives"].limit == "none"


def test_beyond_a_group_the_network_counts():
    inside = plan(SIZES, PLAIN, {"data": 4}, MACHINE).parts["collectives"].seconds
    outside = plan(SIZES, PLAIN, {"data": 8}, MACHINE).parts["collectives"].seconds
    # Four adapters carry 4e5 bytes a second: what 4 of 7 others send takes 10 / 7 of the time that links take for all.
    received = sum(e.times * e.num_bytes for e in step_exchanges(SIZES, PLAIN, 8))
    latency = 0.5 * sum(e.times for e in step_exchanges(SIZES, PLAIN, 8))
    assert outside == pytest.approx(received * 4 / 7 / 4e5 + latency)
    assert outside > inside
    assert plan(SIZES, PLAIN, {"data": 8}, MACHINE).parts["collectives"].limit in ("network", "latency")
    alone = dataclasses.replace(MACHINE, network=None)
    with pytest.raises(ValueError, match="nothing is known of their network: got 8"):
        plan(SIZES, PLAIN, {"data": 8}, alone)


def test_a_slower_memory_takes_longer():
    fast, slow = (plan(SIZES, PLAIN, {}, MACHINE.slowed(share)) for share in (1.0, 0.5))
    assert slow.parts["update"].seconds == pytest.approx(2 * fast.parts["update"].seconds)
    with pytest.raises(ValueError, match="efficiency"):
        MACHINE.slowed(0.0)


def has_room(made: planning.Plan) -> bool:
    return made.total_bytes <= made.available_bytes


def test_remedies_are_true():
    sizes = dataclasses.replace(SIZES, num_users=800_000)
    needed = sum(device_bytes(sizes, FULL, devices=2, native_kernels=False).values())
    tight = dataclasses.replace(MACHINE, memory=0.9 * needed)
    made = plan(sizes, FULL, {"data": 2}, tight)
    assert not made.fits
    (text,) = (text for text in made.remedies if " devices: " in text)
    devices = int(text.split()[0])
    assert has_room(plan(sizes, FULL, {"data": devices}, tight))
    assert not has_room(plan(sizes, FULL, {"data": devices // 2}, tight))
    for text in made.remedies:
        if text.startswith(("--precision", "--gather_blocks")):
            pairs = [flag.split("=") for flag in text.split(":")[0].replace("--", "").split()]
            changed = {name: value if name == "precision" else int(value) for name, value in pairs}
            supposed = plan(sizes, dataclasses.replace(FULL, **changed), {"data": 2}, tight)
            assert has_room(supposed)
            assert text.endswith(f": {gib(supposed.total_bytes)}.")


def test_two_settings_together_are_named_where_neither_suffices_alone():
    sizes = dataclasses.replace(SIZES, num_users=800_000)
    both = dataclasses.replace(FULL, precision="bf16", gather_blocks=8)
    room = 1.01 * sum(device_bytes(sizes, both, devices=64, native_kernels=False).values())
    made = plan(sizes, FULL, {"data": 64}, dataclasses.replace(MACHINE, memory=room))
    assert [text for text in made.remedies if text.startswith("--precision=bf16 --gather_blocks=8: ")]
    assert not [text for text in made.remedies if text.startswith(("--precision=bf16:", "--gather_blocks"))]


def test_a_width_that_the_blocks_do_not_divide_is_no_remedy():
    cut = dataclasses.replace(FULL, width=64, gather_blocks=16)
    made = plan(SIZES, cut, {"data": 2}, dataclasses.replace(MACHINE, memory=1.0))
    assert made.remedies == ()


def test_a_narrower_model_is_named_where_it_fits():
    wide = dataclasses.replace(FULL, width=64)
    room = 0.75 * sum(device_bytes(SIZES, wide, native_kernels=False).values())
    made = plan(SIZES, wide, {}, dataclasses.replace(MACHINE, memory=room))
    (text,) = (text for text in made.remedies if text.startswith("--width"))
    width = int(text.split("=")[1].split(":")[0])
    assert width < 64
    assert has_room(plan(SIZES, dataclasses.replace(wide, width=width), {}, dataclasses.replace(MACHINE, memory=room)))


def test_smaller_linear_models_are_named_where_they_suffice():
    sizes = dataclasses.replace(SIZES, num_users=800_000, num_items=90_000, num_entities=90_000)
    linear = dataclasses.replace(FULL, regression_weight=0.1, regression_rank=512, walk_weight=0.1, walk_rank=100)
    less = dataclasses.replace(linear, regression_rank=256, walk_rank=50)
    room = 1.001 * sum(device_bytes(sizes, less, native_kernels=False).values())
    made = plan(sizes, linear, {}, dataclasses.replace(MACHINE, memory=room))
    assert not made.fits
    (text,) = (text for text in made.remedies if "rank" in text)
    assert text.startswith("--regression_rank=256 --walk_rank=50: ")


def test_obstacles_beside_memory_are_told():
    huge = dataclasses.replace(MACHINE, memory=1e15)
    many = plan(dataclasses.replace(SIZES, num_edges=2**30), PLAIN, {}, huge)
    assert not many.fits
    assert "counted in int32" in many.obstacles[0]
    odd = plan(SIZES, FULL, {"data": 3}, huge)
    assert [text.split()[0] for text in odd.obstacles] == ["--batch_size", "--consistency_batch", "--knowledge_batch"]


def test_what_a_host_builds_before_it_deals_it_out():
    linear = {"walk_weight": 0.1, "walk_rank": 5, "regression_weight": 0.1, "regression_rank": 7}
    config = dataclasses.replace(FULL, content_weight=0.1, content_rank=3, **linear)
    parts = device_bytes(SIZES, config)
    assert parts["linear models"] == 4 * (8000 + 4000) * (5 + 7 + 3)
    one = sum(parts[name] for name in (*TABLES, "self-loop", "graphs"))
    assert plan(SIZES, config, {"data": 4}, MACHINE).host_bytes == one + 4 * parts["linear models"]
    assert plan(SIZES, config, {}, MACHINE).host_bytes == 0


def test_the_table_has_all_rates():
    for name in planning.ACCELERATORS:
        device = accelerator(name)
        assert device.products_bf16 >= device.products > device.streamed > device.link > 0
        assert 0 < device.usable <= 1
    with pytest.raises(ValueError, match="v5e"):
        accelerator("v1")


def test_calibration_measures_this_machine():
    device = calibrate(memory=10**9, clock=time.process_time, rounds=1)
    for name in ("products", "streamed", "gathered", "scattered", "functions"):
        assert 1e5 < getattr(device, name) < 1e14, name
    assert device.measured
    assert device.memory == 10**9


def test_a_clock_that_runs_twice_as_fast_halves_the_rates():
    probes, ticks = Probes(), itertools.count()
    probes.time(lambda: float(next(ticks)))  # a second for ten turns of each operation
    one = probes.accelerator(1)
    assert one.products == pytest.approx(2 * 16_384 * 64 * 64 * 10)
    probes, ticks = Probes(), itertools.count(step=2)
    probes.time(lambda: float(next(ticks)))
    assert probes.accelerator(1).gathered == pytest.approx(one.gathered / 2)


def test_the_program_writes_a_plan(tmp_path: Path):
    target = tmp_path / "plan.json"
    flags = ["--mesh=data:4", "--accelerator=v5e", "--users=100", "--items=50", "--edges=1000", "--modalities=16,8"]
    flags += [f"--output={target}", "--batch_size=128", "--width=16"]
    done = run_program(["-m", "experiments.plan", *flags])
    assert done.returncode == 0, done.stderr
    assert "**It fits**" in done.stdout
    written = json.loads(target.read_text())
    assert written["devices"] == 4
    assert written["sizes"]["modalities"] == [16, 8]
    assert written["config"]["width"] == 16
    assert written["total_bytes"] == sum(written["num_bytes"].values())


def test_a_setting_defaults_to_one_device():
    assert Setting(SIZES, FULL).devices == 1

"""The same numbers on every mesh, no exchange that was not designed, and memory that falls with the devices."""

import dataclasses
import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import blend
from slif_jax.collectives import take_rows_everywhere
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.data.synthetic import synthetic
from slif_jax.engine import Engine, MeshProgram, make_engine, mesh_program
from slif_jax.evaluate import Evaluation
from slif_jax.graphs import build_graphs
from slif_jax.groups import training_tasks
from slif_jax.hlo import collectives
from slif_jax.meshes import make_mesh, parse_mesh
from slif_jax.model import make_model
from slif_jax.noise import hold_out_items
from slif_jax.planning import device_bytes, sizes_of
from slif_jax.train import train_and_evaluate
from slif_jax.train_state import TrainState, init_train_state, make_optimizer
from slif_jax.train_step import make_epoch, rebuild_is_due, training_data

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = Config(
    dataset="synthetic",
    width=8,
    correlation_neighbors=4,
    feature_neighbors=4,
    correlation_start=1,
    batch_size=256,
    softmax_negatives=32,
    knowledge_batch=64,
    consistency_batch=32,
    consistency_weight=0.1,
    collaborative_consistency_weight=0.1,
    l2=1e-3,
    eval_block=32,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "bpr": {"loss": "bpr", "num_negatives": 2, "missing_features": "learned", "learn_feature_correlation": True},
    "cold items": {"interaction_layers": 1, "correlation_mutual": True, "correlation_warm_up": "features"}
    | {"regression_weight": 0.1, "regression_rank": 7},
    "LightGCN": {"side_information": False},
    "blocks": {"gather_blocks": 4, "learn_feature_correlation": True, "regression_weight": 0.1, "regression_rank": 7}
    | {"walk_weight": 0.1, "walk_rank": 5, "content_weight": 0.1, "content_rank": 3, "weigh_interactions": True}
    | {"popularity_weight": 0.1},
}


@pytest.fixture(autouse=True)
def few_tell(monkeypatch: pytest.MonkeyPatch):
    """There are 83 users: they may tune weights here."""
    monkeypatch.setattr(blend, "_LEAST_USERS", 10)


@functools.cache
def dataset_of(variant: str) -> Dataset:
    made = synthetic(num_users=83, num_items=61, num_clusters=4, num_entities=90, seed=5)
    if variant == "blocks":
        weights = np.random.default_rng(0).uniform(0.05, 1.0, len(made.train)).astype(np.float32)
        made = dataclasses.replace(made, train_weights=weights)
    return hold_out_items(made, 0.1, 0) if variant == "cold items" else made


def config_of(variant: str) -> Config:
    return dataclasses.replace(SMALL, **VARIANTS[variant])


@functools.cache
def parts(variant: str) -> tuple:
    dataset, config = dataset_of(variant), config_of(variant)
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    tasks = training_tasks(dataset, config)
    return dataset, model, graphs, training_data(dataset, config), tasks


def engine_on(variant: str, mesh: str) -> tuple[Engine, TrainState]:
    dataset, model, graphs, data, tasks = parts(variant)
    made, config = make_mesh(mesh), config_of(variant)
    if made is not None:
        graphs = build_graphs(dataset, config, made)
    state = init_train_state(model, graphs, config, made)
    return make_engine(dataset, model, graphs, data, tasks, state, made), state


def some_epochs(variant: str, mesh: str) -> tuple[list[dict[str, float]], TrainState, Evaluation]:
    engine, state = engine_on(variant, mesh)
    config, state, losses, found = config_of(variant), engine.put(state), [], None
    for epoch in range(3):
        kept = None
        if rebuild_is_due(epoch, config):
            state, kept = engine.close_the_loop(state)
        state, epoch_losses = engine.run_epoch(state)
        encoded = engine.encode(state)
        state = engine.feed_back(state, encoded)
        if engine.tune is not None:
            state, encoded = engine.tune(state, encoded)
        found = engine.evaluate(encoded, "valid")
        means = {name: float(value) for name, value in epoch_losses.means.items()}
        losses.append(means if kept is None else means | {"kept": float(kept)})
    assert found is not None
    return losses, engine.get(state), found


one_device = functools.cache(functools.partial(some_epochs, mesh="none"))


@pytest.mark.parametrize(
    ("variant", "mesh"),
    [
        ("default", "data:8"),
        ("bpr", "data:2"),
        ("cold items", "data:4"),
        ("LightGCN", "data:2,model:2"),
        ("blocks", "data:4"),
    ],
)
def test_a_mesh_gives_the_numbers_of_one_device(variant: str, mesh: str):
    losses, state, found = one_device(variant)
    mesh_losses, mesh_state, mesh_found = some_epochs(variant, mesh)
    for ours, theirs in zip(mesh_losses, losses, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6)
    for name in ("user_embedding", "item_embedding"):
        np.testing.assert_allclose(mesh_state.params[name], state.params[name], atol=2e-3)
    np.testing.assert_allclose(mesh_state.item_vectors, state.item_vectors, atol=5e-3)
    if (covariance := state.score_covariance) is not None:
        largest = np.abs(covariance).max()
        np.testing.assert_allclose(mesh_state.score_covariance, covariance, atol=1e-3 * largest)
    given = [*config_of(variant).linear_weights().values()]
    if given:
        np.testing.assert_allclose(mesh_state.params["linear_weights"], state.params["linear_weights"], rtol=2e-2)
        assert not np.allclose(state.params["linear_weights"], given, rtol=0.05)  # they were tuned
    # To the last user, but for near ties that another order of summation may turn over.
    same = np.all(mesh_found.hits == found.hits, axis=1)
    assert same.mean() > 0.97
    np.testing.assert_array_equal(mesh_found.users, found.users)
    assert mesh_found.means()["recall@20"] == pytest.approx(found.means()["recall@20"], abs=5e-3)


def program_on(mesh: str) -> tuple[MeshProgram, TrainState]:
    dataset, model, graphs, data, _ = parts("default")
    state = init_train_state(model, graphs, SMALL)
    made = make_mesh(mesh)
    assert made is not None
    return mesh_program(dataset, model, graphs, data, state, made), state


@functools.cache
def compiled_epoch(mesh: str) -> jax.stages.Compiled:
    program, state = program_on(mesh)
    return program.run_epoch.lower(program.sharder.state(state), program.graphs, program.data).compile()


def test_a_step_exchanges_what_was_designed_and_nothing_else():
    devices, width = 8, SMALL.width
    found = [c for c in collectives(compiled_epoch("data:8")) if c.in_loop]
    at = program_on("data:8")[0].sharder.placements
    nodes, items, entities = at.nodes.total, at.items.total, at.entities.total
    # Tables are gathered for: two layers over the interactions; two feature graphs; the users' side views, of two
    # modalities and the knowledge graph at once; two hops over the knowledge graph. Backward, as many reduce-scatters.
    tables = [(nodes, width)] * 2 + [(items, width)] * 2 + [(items, 3 * width)] + [(entities, width)] * 2
    # Rows of the batch: users and positives once fused, and their part of L2; heads, tails and corrupted tails.
    batch, triples = SMALL.batch_size, SMALL.knowledge_batch
    rows = [(batch, width)] * 2 + [(triples, width)] * 3

    def shapes(kind: str) -> Counter:
        return Counter(shape for c in found if c.kind == kind for shape in c.shapes)

    gathered, scattered = shapes("all-gather"), shapes("reduce-scatter")
    assert gathered == Counter(tables + rows + [(batch,)])
    shares = [(n // devices, *rest) for n, *rest in tables + rows]
    assert scattered == Counter([*shares, (batch // devices,), (batch // devices,)])
    assert {c.kind for c in found} == {"all-gather", "reduce-scatter", "all-reduce"}
    # What all devices have: negatives, rows of the contrast, small parameters; nothing that grows with the tables.
    assert max(max(shape, default=1) for shape in shapes("all-reduce")) <= max(batch, width, SMALL.softmax_negatives)
    # Integers: users and items of the batch's interactions, and the triples, looked up where they are.
    looked_up = Counter(
        shape for c in found for shape, dtype in zip(c.shapes, c.dtypes, strict=True) if dtype in ("s32", "u32")
    )
    assert looked_up == Counter({(batch,): 2, (triples, 3): 1})
    assert sum("s32" in c.dtypes for c in found) <= 3
    assert {c.kind for c in found if "s32" in c.dtypes} == {"all-reduce"}
    sent = sum(c.sent_bytes(devices) for c in found if c.kind != "all-reduce")
    expected = 4 * sum(n * w for n, w in tables + rows) * 2 * (devices - 1) / devices
    assert sent == pytest.approx(expected, rel=0.05)


def test_no_device_has_all_interactions_nor_an_order_of_them():
    devices, data = 8, parts("default")[3]
    program, _ = program_on("data:8")
    for dealt, whole in (
        (program.data.interactions.users, data.interactions.users),
        (program.data.interactions.items, data.interactions.items),
        (program.data.triples, data.triples),
    ):
        each = -(-len(whole) // devices)
        shards = sorted(dealt.addressable_shards, key=lambda shard: shard.device.id)
        assert [shard.data.shape for shard in shards] == [(each, *whole.shape[1:])] * devices
        np.testing.assert_array_equal(np.concatenate([shard.data for shard in shards])[: len(whole)], whole)
    assert program.data.interactions.gaps is None
    text = compiled_epoch("data:8").as_text() or ""
    dims = {int(n) for shape in re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", text) for n in shape.split(",")}
    for count in (data.num_examples, data.num_triples):
        each = -(-count // devices)
        assert each in dims
        assert not dims & {count, each * devices}


def test_exact_negatives_have_their_gaps_on_every_device():
    dataset, model, graphs, data, _ = parts("bpr")
    state, made = init_train_state(model, graphs, config_of("bpr")), make_mesh("data:2")
    assert made is not None
    gaps = mesh_program(dataset, model, graphs, data, state, made).data.interactions.gaps
    assert gaps is not None
    assert gaps.is_fully_replicated
    np.testing.assert_array_equal(gaps, data.interactions.gaps)


@pytest.mark.parametrize("length", [0, 3, 8, 21])
def test_rows_are_dealt_out_and_looked_up_to_the_last_bit(length: int):
    sharder = program_on("data:8")[0].sharder
    values = np.random.default_rng(length).integers(-(2**31), 2**31, (length, 3), np.int32)
    dealt = sharder.deal(values)
    each = max(1, -(-length // 8))
    assert {shard.data.shape for shard in dealt.addressable_shards} == {(each, 3)}
    np.testing.assert_array_equal(dealt[:length], values)
    assert not np.asarray(dealt[length:]).any()
    ids = jnp.arange(length)[::-1]
    look_up = jax.shard_map(
        lambda x, ids: take_rows_everywhere(x, ids, sharder.axis),
        mesh=sharder.mesh,
        in_specs=(sharder.rows, jax.sharding.PartitionSpec()),
        out_specs=jax.sharding.PartitionSpec(),
    )
    np.testing.assert_array_equal(jax.jit(look_up)(dealt, ids), values[::-1])


def test_the_rebuild_gathers_item_vectors_and_never_all_pairs():
    engine, state = engine_on("default", "data:8")
    found = collectives(jax.jit(engine.close_the_loop).lower(engine.put(state)).compile())
    items = program_on("data:8")[0].sharder.placements.items.total
    largest = max(c.result_bytes for c in found)
    assert largest == 4 * items * SMALL.width
    assert items * items * 4 > largest


def test_memory_of_a_device_falls_with_the_mesh():
    config = dataclasses.replace(SMALL, width=64, modalities=("none",), knowledge_graph=False)
    dataset = synthetic(num_users=2_000, num_items=1_500, num_entities=2_500, seed=2)
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    data, state = training_data(dataset, config), init_train_state(model, graphs, config)

    def measure(mesh: str) -> tuple[int, int]:
        made = make_mesh(mesh)
        assert made is not None
        program = mesh_program(dataset, model, graphs, data, state, made)
        placed = program.sharder.state(state)
        compiled = program.run_epoch.lower(placed, program.graphs, program.data).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        first = made.devices.flat[0]
        tables = sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves((placed.params, placed.opt_state, placed.average))
            for shard in leaf.addressable_shards
            if shard.device == first
        )
        return tables, analysis.argument_size_in_bytes + analysis.temp_size_in_bytes

    tables, everything = measure("data:1")
    shared_tables, shared_everything = measure("data:8")
    assert shared_tables <= tables / 5
    assert shared_everything <= everything / 2.5  # gathered sources do not fall


def test_columns_in_blocks_take_less_memory_and_are_exchanged_once_each_way():
    whole = dataclasses.replace(SMALL, width=64, knowledge_graph=False, correlation_into=("interactions",))
    dataset = synthetic(num_users=8_000, num_items=2_500, num_relations=0, modalities={"visual": 8}, seed=2)
    taken, found = [], []
    for config in (whole, dataclasses.replace(whole, gather_blocks=4)):
        graphs, model = build_graphs(dataset, config), make_model(dataset, config)
        state, made = init_train_state(model, graphs, config), make_mesh("data:8")
        assert made is not None
        program = mesh_program(dataset, model, graphs, training_data(dataset, config), state, made)
        compiled = program.run_epoch.lower(program.sharder.state(state), program.graphs, program.data).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        taken.append(analysis.temp_size_in_bytes)
        shapes = Counter((c.kind, shape) for c in collectives(compiled) if c.in_loop for shape in c.shapes)
        found.append(shapes)
        estimated = device_bytes(sizes_of(dataset, config), config, devices=8)
        step = estimated["gathered sources"] + estimated["within a step"]
        assert step == pytest.approx(analysis.temp_size_in_bytes, rel=0.25)
    assert taken[1] < 0.8 * taken[0]
    # Two layers over users and items, and the feature graph and the users' side views over items.
    nodes, items = program.sharder.placements.nodes.total, program.sharder.placements.items.total
    for shapes, columns in zip(found, (64, 16), strict=True):
        for rows, times in ((nodes, 2), (items, 2)):
            assert shapes["all-gather", (rows, columns)] == times
            assert shapes["reduce-scatter", (rows // 8, columns)] == times


def test_the_same_function_under_pmap():
    program, state = program_on("data:8")
    sharder = program.sharder
    spec, graphs_spec = sharder.state_spec(state), sharder.graphs_spec(program.graphs)
    placed = sharder.state(state)
    pmap_state, state_axes = sharder.for_pmap(placed, spec)
    graphs, graphs_axes = sharder.for_pmap(program.graphs, graphs_spec)
    data, data_axes = sharder.for_pmap(program.data, sharder.data_spec(program.data))
    epoch = make_epoch(program.model.clone(axis="data"), make_optimizer(SMALL))
    mapped = jax.pmap(epoch, axis_name="data", in_axes=(state_axes, graphs_axes, data_axes))
    after, losses = mapped(pmap_state, graphs, data)
    expected, expected_losses = program.run_epoch(placed, program.graphs, program.data)
    for name, value in expected_losses.means.items():
        np.testing.assert_allclose(losses.means[name], float(value), rtol=1e-5)
    users = np.asarray(expected.params["user_embedding"])
    np.testing.assert_allclose(np.asarray(after.params["user_embedding"]).reshape(users.shape), users, atol=1e-5)
    kernel = np.asarray(expected.params["fusion_hidden"]["kernel"])
    np.testing.assert_allclose(after.params["fusion_hidden"]["kernel"][3], kernel, atol=1e-5)


def test_states_go_to_a_mesh_and_back_unchanged():
    engine, state = engine_on("cold items", "data:8")
    state = state.replace(item_vectors=jax.random.normal(jax.random.key(0), state.item_vectors.shape))
    back = engine.get(engine.put(state))

    def values(x: Any) -> Any:
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    jax.tree.map(lambda a, b: np.testing.assert_array_equal(values(a), values(b)), back, state)


def test_a_run_goes_on_with_another_mesh(tmp_path: Path):
    config = dataclasses.replace(
        SMALL,
        dataset="synthetic:users=60,items=40,clusters=3,seed=2",
        modalities=("none",),
        knowledge_graph=False,
        epochs=4,
    )
    run = functools.partial(train_and_evaluate, progress="off", checkpoint_every=1)
    expected = run(config, tmp_path / "one")
    half = dataclasses.replace(config, epochs=2)
    run(half, tmp_path / "several", mesh=make_mesh("data:4"))
    found = run(config, tmp_path / "several", mesh=make_mesh("data:2"))
    assert found["epochs"] == expected["epochs"]
    assert found["test"]["recall@20"] == pytest.approx(expected["test"]["recall@20"], abs=0.02)
    lines = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "several")
    ]
    for ours, theirs in zip(*lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("text", ["data", "data:0", "data:x", "8", "data:2,data:2", "a-b:2", "data:-1"])
def test_a_mesh_that_cannot_be_read(text: str):
    with pytest.raises(ValueError, match="data:4,model:2"):
        parse_mesh(text)


def test_meshes():
    assert parse_mesh("none") == parse_mesh("") == {}
    assert parse_mesh("data:4, model:2") == {"data": 4, "model": 2}
    assert make_mesh("none") is None
    with pytest.raises(ValueError, match=r"asks for 64 devices, there are 8.*XLA_FLAGS"):
        make_mesh("data:64")


def test_batches_must_be_shared_evenly():
    dataset, model, graphs, data, _ = parts("default")
    uneven = model.clone(config=dataclasses.replace(SMALL, batch_size=250))
    made = make_mesh("data:8")
    assert made is not None
    with pytest.raises(ValueError, match=r"--batch_size must be a multiple of the 8 devices: got 250. Try 256"):
        mesh_program(dataset, uneven, graphs, data, init_train_state(model, graphs, SMALL), made)

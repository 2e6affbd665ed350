"""Explanations against dense NumPy: the attention, the paths of the correlation graph, the parts of the score."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import recommend
from slif_jax.cold_items import inherit
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.data.synthetic import synthetic
from slif_jax.explain import Evidence, explain, gather_evidence
from slif_jax.explain_text import as_record, as_text
from slif_jax.graphs import build_graphs, edge_weights, neighbor_graph
from slif_jax.model import make_model
from slif_jax.recommend import TrainedModel
from slif_jax.similar import edge_lists

CONFIG = Config(width=4, correlation_neighbors=3, feature_neighbors=3, knowledge_layers=2, knowledge_correlation=0.7)
NUM_USERS, NUM_ITEMS = 12, 9


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    made = synthetic(num_users=NUM_USERS, num_items=NUM_ITEMS, num_clusters=2, mean_degree=3.0, seed=2)
    return dataclasses.replace(
        made,
        item_titles=np.array([f"Film {item}" if item != 1 else "" for item in range(NUM_ITEMS)]),
        relation_names=np.array([f"by {relation}" for relation in range(made.num_relations)]),
        entity_names=None,
    )


def untrained(dataset: Dataset, config: Config, neighbors: np.ndarray | None = None) -> TrainedModel:
    """Random parameters, large enough to make uneven softmaxes, and a correlation graph of our own."""
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    if neighbors is None:
        neighbors = np.stack([(np.arange(NUM_ITEMS) + step) % NUM_ITEMS for step in (1, 2, 4)], axis=1)
    weights = np.where(neighbors >= 0, np.random.default_rng(5).uniform(0.2, 1.0, neighbors.shape), 0)
    correlation = neighbor_graph(jnp.asarray(neighbors, jnp.int32), jnp.asarray(weights, jnp.float32))
    params = jax.tree.map(lambda x: 1.5 * x, model.init_params(jax.random.key(1), graphs, correlation))
    encoded = jax.jit(model.encode)(params, graphs, correlation)
    return TrainedModel(dataset, encoded, config, 1, model, params, graphs, correlation)


@pytest.fixture(scope="module")
def trained(dataset: Dataset) -> TrainedModel:
    return untrained(dataset, CONFIG)


@pytest.fixture(scope="module")
def evidence(trained: TrainedModel) -> Evidence:
    return gather_evidence(trained)


def dense_attention(trained: TrainedModel, item: int) -> tuple[dict[tuple[int, int, bool], float], float]:
    """The mean over the hops of the softmax over an item's triples and correlation edges, one edge at a time."""
    dataset, config = trained.dataset, trained.config
    params: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), trained.params)
    senders, weights = edge_lists(trained.correlation)
    factor = senders.shape[1] * config.knowledge_correlation
    items = np.asarray(inherit(trained.params["item_embedding"], trained.graphs.cold), np.float64)
    x = np.concatenate([items, params["entity_embedding"]])
    edges: list[list[tuple[Any, int, np.ndarray, float]]] = [[] for _ in range(dataset.num_entities)]
    for head, relation, tail in dataset.triples.tolist():
        vectors = params["relation_vectors"]
        edges[head].append(((relation, tail, True), tail, vectors[relation], 1.0))
        edges[tail].append(((relation, head, False), head, vectors[relation + dataset.num_relations], 1.0))
    for receiver in range(NUM_ITEMS):
        for sender, weight in zip(senders[receiver], weights[receiver], strict=True):
            edges[receiver].append((None, int(sender), params["correlation_relation"][0], float(weight) * factor))
    triples: dict[tuple[int, int, bool], float] = {}
    share = 0.0
    for hop in range(config.knowledge_layers):
        query = x @ params[f"query_{hop}"]["kernel"]
        following = np.zeros_like(x)
        for entity, incoming in enumerate(edges):
            if not incoming:
                continue
            messages = np.stack([x[sender] * vector for _, sender, vector, _ in incoming])
            exps = np.array([prior for *_, prior in incoming]) * np.exp(messages @ query[entity] / 2.0)  # sqrt(4)
            following[entity] = (exps / exps.sum()) @ messages
            if entity == item:
                for (key, *_), value in zip(incoming, exps / exps.sum() / config.knowledge_layers, strict=True):
                    if key is None:
                        share += value
                    else:
                        triples[key] = triples.get(key, 0.0) + value
        x = following
    return triples, share


@pytest.mark.parametrize("item", [0, 5])
def test_attention_is_the_models_own(trained, evidence, item):
    want, share = dense_attention(trained, item)
    found = explain(evidence, 0, item, num_triples=1000)
    assert found.triples is not None
    assert found.num_triples == len(found.triples) == len(want)
    got = {(each.relation, each.entity, each.item_is_head): each.attention for each in found.triples}
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert got[key] == pytest.approx(value, rel=1e-4)
    assert found.correlation_attention == pytest.approx(share, rel=1e-4)
    assert sum(got.values()) + share == pytest.approx(1.0, rel=1e-5)
    ranked = [each.attention for each in found.triples]
    assert ranked == sorted(ranked, reverse=True)
    assert explain(evidence, 0, item, num_triples=2).triples == found.triples[:2]


def test_shared_triples(trained, evidence):
    dataset = trained.dataset
    triples = set(map(tuple, dataset.triples.tolist()))
    shared = 0
    for user in range(NUM_USERS):
        liked = [int(item) for owner, item in dataset.train if owner == user]
        for item in range(NUM_ITEMS):
            for each in explain(evidence, user, item, num_triples=1000).triples or ():
                r, e = each.relation, each.entity
                same = [i for i in liked if i != item and ((i, r, e) if each.item_is_head else (e, r, i)) in triples]
                assert sorted(each.shared) == same
                shared += len(same)
    assert shared


def test_the_parts_of_the_score_sum_to_it(trained, evidence):
    users, items = (np.asarray(side) for side in trained.encoded.final)
    for user, item in ((0, 0), (3, 7), (11, 4)):
        found = explain(evidence, user, item)
        assert found.score == pytest.approx(float(users[user] @ items[item]), rel=1e-5, abs=1e-5)
        assert sum(view.score for view in found.views) == pytest.approx(found.score, rel=1e-4, abs=1e-4)


def test_the_weights_of_the_views_have_the_right_names(trained, evidence):
    """Computed by name from the parameters: columns must not be mixed up."""
    params: Any = trained.params
    for side, index in ((trained.encoded.items, 4), (trained.encoded.users, 4)):
        logits = {
            name: np.tanh(np.asarray(x)[index] @ params["fusion_hidden"]["kernel"] + params["fusion_hidden"]["bias"])
            @ params["fusion_vector"][0]
            for name, x in side.sides.items()
        }
        exps = {name: np.exp(value - max(logits.values())) for name, value in logits.items()}
        found = {view.name: view for view in explain(evidence, 4, 4).views}
        assert list(found) == ["collaborative", "text", "visual", "knowledge"]
        assert found.pop("collaborative").item_weight is None
        for name, view in found.items():
            got = view.item_weight if side is trained.encoded.items else view.user_weight
            assert got == pytest.approx(exps[name] / sum(exps.values()), rel=1e-3)


def test_ranks_are_those_of_the_lists(trained, evidence):
    (block,) = recommend.top_n(trained.encoded, trained.dataset, np.arange(NUM_USERS), n=NUM_ITEMS)
    for user, items, _ in zip(*block, strict=True):
        unseen = [int(item) for item in items if item >= 0]
        found = [explain(evidence, int(user), item).rank for item in range(NUM_ITEMS)]
        assert found == [1 + unseen.index(item) if item in unseen else None for item in range(NUM_ITEMS)]


def liked_of(dataset: Dataset, user: int) -> set[int]:
    return {int(item) for owner, item in dataset.train if owner == user}


@pytest.mark.parametrize("user", range(NUM_USERS))
def test_liked_items_along_the_graph(dataset, trained, evidence, user):
    """Against S and its square, as dense matrices."""
    matrix = np.zeros((NUM_ITEMS, NUM_ITEMS))
    senders, weights = edge_lists(trained.correlation)
    np.add.at(matrix, (np.arange(NUM_ITEMS)[:, None], senders), weights)
    for item in range(NUM_ITEMS):
        found = explain(evidence, user, item, num_liked=NUM_ITEMS)
        liked = sorted(liked_of(dataset, user) - {item})
        direct, twice = ({j: row[j] for j in liked if row[j] > 0} for row in (matrix[item], (matrix @ matrix)[item]))
        link, want = ("correlation", direct) if direct else ("two hops", twice) if twice else ("cosine", None)
        assert found.link == link
        assert found.num_liked == len(liked)
        if want is None:
            assert sorted(near.item for near in found.liked) == liked
            continue
        assert {near.item for near in found.liked} == set(want)
        for near in found.liked:
            assert near.weight == pytest.approx(want[near.item], rel=1e-5)
            if link == "two hops":
                through = matrix[item] * matrix[:, near.item]
                assert through[near.via] == pytest.approx(through.max(), rel=1e-5)
        ordered = [near.weight for near in found.liked]
        assert ordered == sorted(ordered, reverse=True)


def test_two_hops_and_cosine_when_edges_lead_nowhere(dataset):
    """Item 0 is received from 1 alone, 1 from 2 alone, and the others from nobody."""
    neighbors = np.full((NUM_ITEMS, 2), -1)
    neighbors[0, 0], neighbors[1, 0], neighbors[2, 0] = 1, 2, 0
    train = np.array([[0, 2], [1, 5], [1, 6]], np.int32)
    none = np.zeros((0, 2), np.int32)
    small = dataclasses.replace(dataset, train=train, valid=none, test=none)
    evidence = gather_evidence(untrained(small, dataclasses.replace(CONFIG, correlation_neighbors=2), neighbors))
    far = explain(evidence, 0, 0)
    assert far.link == "two hops"
    assert [(near.item, near.via) for near in far.liked] == [(2, 1)]
    assert "by way of 1\n" in as_text(far, small)  # item 1 has no title
    vectors = evidence.items[[0, 5, 6]] / np.linalg.norm(evidence.items[[0, 5, 6]], axis=1, keepdims=True)
    near = explain(evidence, 1, 0)
    assert near.link == "cosine"
    assert {each.item: each.weight for each in near.liked} == pytest.approx(
        {5: float(vectors[1] @ vectors[0]), 6: float(vectors[2] @ vectors[0])}, rel=1e-4, abs=1e-5
    )
    assert "by cosine" in as_text(near, small)
    nobody = explain(evidence, 5, 0)
    assert (nobody.num_liked, nobody.liked) == (0, ())
    assert "the user has none" in as_text(nobody, small)


def test_without_self_loop_and_knowledge(dataset):
    trained = untrained(dataset, dataclasses.replace(CONFIG, side_information=False))
    assert (edge_weights(trained.correlation) > 0).any()  # there, but the model does not use it
    evidence = gather_evidence(trained)
    user = int(dataset.train[0, 0])
    found = explain(evidence, user, 3)
    assert found.link == "cosine"
    assert found.triples is None
    assert [view.name for view in found.views] == ["collaborative"]
    assert "no knowledge graph" in as_text(found, dataset)
    assert as_record(found, dataset)["triples"] is None
    with pytest.raises(ValueError, match="uses no knowledge graph"):
        trained.model.knowledge_attention(trained.params, trained.graphs, trained.correlation)


@pytest.mark.parametrize(("user", "item", "name"), [(-1, 0, "user"), (NUM_USERS, 0, "user"), (0, NUM_ITEMS, "item")])
def test_who_is_not_there(evidence, user, item, name):
    with pytest.raises(ValueError, match=rf"^`{name}` must be in \[0, "):
        explain(evidence, user, item)


def test_text_and_json_name_things_as_the_source_does(dataset, evidence):
    user = int(dataset.train[0, 0])
    found = next(each for item in range(NUM_ITEMS) if (each := explain(evidence, user, item)).rank == 1)
    text, record = as_text(found, dataset), json.loads(json.dumps(as_record(found, dataset)))
    assert text.startswith(f"User {dataset.user_ids[user]}, item {dataset.item_ids[found.item]}")
    assert f"Place 1 of the {found.num_unseen} items" in text
    assert record["user"] == dataset.user_ids[user]
    assert record["item"] == dataset.item_ids[found.item]
    assert record["views"][0]["name"] == "collaborative"
    assert len(record["liked"]) == len(found.liked)
    assert found.triples
    for triple, shown in zip(found.triples, record["triples"], strict=True):
        arrow = "->" if triple.item_is_head else "<-"
        assert f"{triple.attention:.4f}  by {triple.relation} {arrow} {shown['entity']}" in text
        assert shown["entity"] == (f"entity {triple.entity}" if triple.entity >= NUM_ITEMS else shown["entity"])

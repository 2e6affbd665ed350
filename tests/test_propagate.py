"""Propagation and attention against dense matrices and slow softmaxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax.graphs import neighbor_graph
from slif_jax.ops import AttentionOutput, build_graph
from slif_jax.propagate import attend_knowledge, merge_attention, propagate, propagate_features

NUM_USERS, NUM_ITEMS, WIDTH, K = 3, 4, 2, 2
NUM_NODES = NUM_USERS + NUM_ITEMS
NUM_ENTITIES, NUM_RELATIONS = 6, 2


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def graph_of(matrix, relation=None):
    """The graph of a dense [receivers, senders] matrix."""
    receivers, senders = np.nonzero(matrix)
    size = len(matrix)
    weight = matrix[receivers, senders]
    return build_graph(senders, receivers, weight, relation, num_senders=size, num_receivers=size)


def dense(graph, size):
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.asarray(graph.receivers), np.asarray(graph.senders)), np.asarray(graph.edges.weight))
    return matrix


def bipartite():
    """LightGCN's matrix D^-1/2 A D^-1/2; the last item has no user."""
    table = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]], np.float64)
    whole = np.zeros((NUM_NODES, NUM_NODES))
    whole[:NUM_USERS, NUM_USERS:], whole[NUM_USERS:, :NUM_USERS] = table, table.T
    degree = whole.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0)
    return scale[:, None] * whole * scale[None, :]


@pytest.fixture(scope="module")
def correlation():
    ids = np.array([[1, 2], [0, 3], [0, -1], [1, 2]], np.int32)
    weight = np.array([[1.0, 0.5], [1.0, 0.2], [0.5, 0.0], [0.2, 0.3]], np.float32)
    return neighbor_graph(jnp.asarray(ids), jnp.asarray(weight))


@pytest.fixture(scope="module")
def empty():
    return neighbor_graph(jnp.full((NUM_ITEMS, K), -1, jnp.int32), jnp.zeros((NUM_ITEMS, K)))


# propagate


def light_gcn(matrix, x, num_layers):
    layers = [np.asarray(x, np.float64)]
    for _ in range(num_layers):
        layers.append(matrix @ layers[-1])
    return np.mean(layers, axis=0)


def test_a_path_on_paper():
    # user 0 - item 0 - user 1: degrees 1, 2, 1; every weight is 1 / sqrt(2).
    root = 1 / np.sqrt(2)
    graph = graph_of(root * np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]))
    x = jnp.array([[1.0], [3.0], [0.0]])
    # Layer 1 is 0, 0, 4r; layer 2 is 2, 2, 0.
    np.testing.assert_allclose(propagate(graph, x, num_layers=1), [[0.5], [1.5], [2 * root]], rtol=1e-6)
    np.testing.assert_allclose(propagate(graph, x, num_layers=2), [[1.0], [5 / 3], [4 * root / 3]], rtol=1e-6)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_propagation_is_that_of_dense_matrices(num_layers):
    x = draw(0, NUM_NODES, WIDTH)
    got = propagate(graph_of(bipartite()), jnp.asarray(x), num_layers=num_layers)
    np.testing.assert_allclose(got, light_gcn(bipartite(), x, num_layers), rtol=1e-5, atol=1e-6)


def test_correlation_edges_are_added_between_items(correlation):
    x = draw(1, NUM_NODES, WIDTH)
    whole = bipartite()
    whole[NUM_USERS:, NUM_USERS:] += 0.5 * dense(correlation, NUM_ITEMS)
    options = {"num_layers": 2, "correlation": correlation, "first_receiver": NUM_USERS}
    got = propagate(graph_of(bipartite()), jnp.asarray(x), correlation_weight=0.5, **options)
    np.testing.assert_allclose(got, light_gcn(whole, x, 2), rtol=1e-5, atol=1e-6)
    without = propagate(graph_of(bipartite()), jnp.asarray(x), correlation_weight=0.0, **options)
    np.testing.assert_allclose(without, light_gcn(bipartite(), x, 2), rtol=1e-5, atol=1e-6)


def test_an_empty_correlation_graph_changes_nothing(empty):
    x = jnp.asarray(draw(1, NUM_NODES, WIDTH))
    graph = graph_of(bipartite())
    got = propagate(graph, x, num_layers=2, correlation=empty, correlation_weight=0.5, first_receiver=NUM_USERS)
    np.testing.assert_array_equal(got, propagate(graph, x, num_layers=2))


def test_propagation_is_linear_and_its_gradient_the_transpose(correlation):
    graph = graph_of(np.triu(bipartite()) + 0.3 * np.eye(NUM_NODES))  # not symmetric

    @jax.jit
    def apply(x):
        return propagate(
            graph, x, num_layers=2, correlation=correlation, correlation_weight=0.5, first_receiver=NUM_USERS
        )

    x, y = draw(0, NUM_NODES, WIDTH), draw(1, NUM_NODES, WIDTH)
    combined = apply(np.float32(2) * x - y)
    np.testing.assert_allclose(combined, 2 * np.asarray(apply(x)) - np.asarray(apply(y)), rtol=1e-4, atol=1e-5)
    (grad,) = jax.vjp(apply, x)[1](y)
    np.testing.assert_allclose(np.vdot(grad, x), np.vdot(y, apply(x)), rtol=1e-4)
    whole = np.triu(bipartite()) + 0.3 * np.eye(NUM_NODES)
    whole[NUM_USERS:, NUM_USERS:] += 0.5 * dense(correlation, NUM_ITEMS)
    np.testing.assert_allclose(grad, light_gcn(whole.T, y, 2), rtol=1e-4, atol=1e-5)


def test_propagation_follows_the_names_of_the_nodes():
    order = np.random.default_rng(0).permutation(NUM_NODES)
    x = draw(2, NUM_NODES, WIDTH)
    got = propagate(graph_of(bipartite()[np.ix_(order, order)]), jnp.asarray(x[order]), num_layers=2)
    want = np.asarray(propagate(graph_of(bipartite()), jnp.asarray(x), num_layers=2))
    np.testing.assert_allclose(got, want[order], rtol=1e-5, atol=1e-6)


def test_one_row_per_node_is_asked_for():
    graph, x = graph_of(bipartite()), jnp.zeros((NUM_NODES + 1, WIDTH))
    message = r"`x` must have one row per node: got x.shape=\(8, 2\) for a graph of 7 nodes"
    with pytest.raises(ValueError, match=message):
        propagate(graph, x, num_layers=0)
    with pytest.raises(ValueError, match=message):
        propagate_features(graph, x, num_layers=1)
    with pytest.raises(ValueError, match=message):
        attend_knowledge(graph, x, x, jnp.ones((1, WIDTH)))


# propagate_features


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_feature_graph_and_correlation_graph_are_mixed(share, correlation):
    matrix, x = np.abs(draw(3, NUM_ITEMS, NUM_ITEMS)), draw(4, NUM_ITEMS, WIDTH)
    mixed = (1 - share) * matrix + share * dense(correlation, NUM_ITEMS)
    got = propagate_features(
        graph_of(matrix), jnp.asarray(x), num_layers=2, correlation=correlation, correlation_weight=share
    )
    np.testing.assert_allclose(got, mixed @ mixed @ x, rtol=1e-4, atol=1e-5)
    alone = propagate_features(graph_of(matrix), jnp.asarray(x), num_layers=1)
    np.testing.assert_allclose(alone, matrix @ x, rtol=1e-5, atol=1e-5)


def test_the_share_of_correlation_can_be_learnt(correlation):
    matrix, x = np.abs(draw(3, NUM_ITEMS, NUM_ITEMS)), draw(4, NUM_ITEMS, WIDTH)
    graph = graph_of(matrix)

    def total(share):
        out = propagate_features(graph, jnp.asarray(x), num_layers=1, correlation=correlation, correlation_weight=share)
        return jnp.sum(out)

    grad = jax.grad(total)(jnp.asarray(0.3))
    np.testing.assert_allclose(grad, np.sum((dense(correlation, NUM_ITEMS) - matrix) @ x), rtol=1e-4)


# attend_knowledge

# Receiver, sender, relation; entity 5 has no edge, items 0 to 3 some, two edges from 4 to 0 differ in relation.
TRIPLES = np.array([(0, 4, 0), (0, 4, 1), (0, 1, 0), (1, 4, 1), (2, 2, 0), (4, 0, 1), (4, 3, 0)])


@pytest.fixture(scope="module")
def knowledge():
    receivers, senders, relation = TRIPLES.T
    return build_graph(senders, receivers, relation=relation, num_senders=NUM_ENTITIES, num_receivers=NUM_ENTITIES)


def slow_attention(query, x, relations, extra=()):
    """A softmax over the edges of a receiver, of prior * exp(query . message / sqrt(D)); `extra` has more edges."""
    edges = [(h, t, relations[r], 1.0) for h, t, r in TRIPLES] + list(extra)
    out = np.zeros_like(x, np.float64)
    for node in range(len(x)):
        messages = [(x[t] * vector, prior) for h, t, vector, prior in edges if h == node and prior > 0]
        weights = np.array([prior * np.exp(query[node] @ message / np.sqrt(WIDTH)) for message, prior in messages])
        for weight, (message, _) in zip(weights, messages, strict=True):
            out[node] += weight / weights.sum() * message
    return out


@pytest.fixture(scope="module")
def arrays():
    return draw(5, NUM_ENTITIES, WIDTH), draw(6, NUM_ENTITIES, WIDTH), draw(7, NUM_RELATIONS, WIDTH)


def test_attention_is_the_softmax_of_the_definition(knowledge, arrays):
    got = attend_knowledge(knowledge, *map(jnp.asarray, arrays))
    np.testing.assert_allclose(got, slow_attention(*arrays), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(got[5], 0.0)


def test_equal_scores_make_a_mean(knowledge, arrays):
    _, x, _ = arrays
    nothing = jnp.zeros((NUM_ENTITIES, WIDTH))
    got = attend_knowledge(knowledge, nothing, jnp.asarray(x), jnp.ones((NUM_RELATIONS, WIDTH)))
    np.testing.assert_allclose(got[0], (2 * x[4] + x[1]) / 3, rtol=1e-5)
    np.testing.assert_allclose(got[4], (x[0] + x[3]) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("prior", [0.5, 1.0])
def test_correlation_edges_join_the_same_softmax(prior, knowledge, arrays, correlation):
    query, x, relations = arrays
    own = draw(8, 1, WIDTH)
    got = attend_knowledge(
        knowledge,
        jnp.asarray(query),
        jnp.asarray(x),
        jnp.asarray(relations),
        correlation=correlation,
        correlation_relation=jnp.asarray(own),
        correlation_weight=prior,
    )
    # An edge's prior is its weight, times k so that the weights of a row are about 1 on average.
    edges = zip(*map(np.asarray, (correlation.receivers, correlation.senders, correlation.edges.weight)), strict=True)
    extra = [(h, t, own[0], K * prior * weight) for h, t, weight in edges]
    np.testing.assert_allclose(got, slow_attention(query, x, relations, extra), rtol=1e-4, atol=1e-6)


def test_correlation_without_weight_changes_nothing(knowledge, arrays, correlation, empty):
    want = attend_knowledge(knowledge, *map(jnp.asarray, arrays))
    for graph, prior in ((empty, 1.0), (correlation, 0.0)):
        got = attend_knowledge(
            knowledge,
            *map(jnp.asarray, arrays),
            correlation=graph,
            correlation_relation=jnp.ones((1, WIDTH)),
            correlation_weight=prior,
        )
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_attention_has_finite_gradients_with_empty_rows_and_large_scores(scale, knowledge, arrays, empty):
    query, x, relations = (jnp.asarray(array) for array in arrays)

    @jax.jit
    @jax.grad
    def gradients(args):
        out = attend_knowledge(knowledge, *args[:3], correlation=empty, correlation_relation=args[3])
        return jnp.sum(out * out)

    grads = gradients((query * scale, x, relations, jnp.ones((1, WIDTH))))
    assert all(np.isfinite(grad).all() for grad in grads)
    assert np.any(np.asarray(grads[1]) != 0)
    np.testing.assert_array_equal(grads[0][5], 0.0)


# merge_attention

EMPTY = -np.inf


def output(values, log_sums):
    return AttentionOutput(jnp.asarray(values, jnp.float32), jnp.asarray(log_sums, jnp.float32))


def test_merging_is_the_softmax_of_the_union():
    scores, messages = draw(9, 3, 5), draw(10, 3, 5, WIDTH)

    def attention(edges):
        part = scores[:, edges].astype(np.float64)
        weight = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        return np.einsum("nm,nmd->nd", weight, messages[:, edges]), np.log(np.exp(part).sum(axis=1))

    a, b, union = (attention(edges) for edges in ([0, 3], [1, 2, 4], [0, 1, 2, 3, 4]))
    np.testing.assert_allclose(merge_attention(output(*a), output(*b)), union[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(merge_attention(output(*b), output(*a)), union[0], rtol=1e-5, atol=1e-6)


def test_merging_with_nothing():
    a = output([[1, 2], [3, 4], [0, 0], [5, 6]], [0.5, -3.0, EMPTY, 1e4])
    b = output([[0, 0], [7, 8], [0, 0], [9, 9]], [EMPTY, 1e4, EMPTY, -1e4])
    for first, second in ((a, b), (b, a)):
        np.testing.assert_allclose(merge_attention(first, second), [[1, 2], [7, 8], [0, 0], [5, 6]])


def test_gradients_of_merging_are_finite_where_a_side_is_empty():
    logs = [0.5, EMPTY, EMPTY, 0.3], [EMPTY, 0.5, EMPTY, 0.1]
    values = draw(11, 4, WIDTH), draw(12, 4, WIDTH)

    @jax.jit
    @jax.grad
    def gradients(args):
        return jnp.sum(jnp.sin(merge_attention(AttentionOutput(*args[0]), AttentionOutput(*args[1]))))

    (a_values, a_logs), (b_values, b_logs) = gradients((output(values[0], logs[0]), output(values[1], logs[1])))
    for grad in (a_values, a_logs, b_values, b_logs):
        assert np.isfinite(grad).all()
    np.testing.assert_array_equal(a_logs[:3], 0.0)
    np.testing.assert_allclose(a_logs[3], -b_logs[3], rtol=1e-5)
    assert a_logs[3] != 0
    np.testing.assert_array_equal([a_values[1], b_values[0]], 0.0)

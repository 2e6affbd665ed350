"""Edge attention: every implementation against the reference, the reference against dense NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import DTYPES, assert_close, backends, cases, needs_devices, unchecked
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from slif_jax import ops
from slif_jax.kernels.edge_attention.arg_specs import ARG_SPECS, make_args


def _cotangents(query):
    rng = np.random.default_rng(9)
    values = jnp.asarray(rng.normal(size=query.shape).astype(query.dtype))
    return ops.AttentionOutput(values, jnp.asarray(rng.normal(size=query.shape[0]).astype(np.float32)))


def _run(implementation, spec, dtype, bare=False):
    """Result and gradients of query, x, relation vectors and weights; `bare` has neither relations nor weights."""
    graph, *tables, weight = make_args(spec, DTYPES[dtype])
    if bare:
        graph = graph._replace(edges=ops.Edges())
        tables, weight = [*tables[:2], None], None

    @jax.jit
    def run(graph, tables, weight, ct):
        def attend(*args):
            return ops.edge_attention(graph, *args[:-1], weight=args[-1], implementation=implementation)

        out, vjp = jax.vjp(attend, *tables, weight)
        return out, vjp(ct)

    return run(graph, tables, weight, _cotangents(tables[0]))


_reference = functools.lru_cache(functools.partial(_run, "reference"))


@pytest.mark.parametrize("spec", ARG_SPECS)
def test_reference_against_dense(spec):
    graph, query, x, vectors, weight = (
        jax.tree.map(lambda leaf: np.asarray(leaf), part) for part in make_args(spec, jnp.float32)
    )
    out, _ = _reference(spec, "float32")
    shares = jax.jit(ops.attention_weights)(graph, query, x, vectors, out.logsumexp, weight=weight)
    size = ARG_SPECS[spec]
    for r in range(size.num_receivers):
        mine = [e for e in range(size.num_edges) if graph.receivers[e] == r and weight[e] > 0]
        if not mine:
            assert out.logsumexp[r] == -np.inf
            assert not np.any(out.values[r])
            continue
        messages = np.float64(x[graph.senders[mine]]) * vectors[graph.edges.relation[mine]]
        parts = weight[mine] * np.exp(messages @ query[r] * size.columns**-0.5)
        np.testing.assert_allclose(out.logsumexp[r], np.log(parts.sum()), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(out.values[r], parts @ messages / parts.sum(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(shares[np.asarray(mine)], parts / parts.sum(), rtol=1e-4, atol=1e-5)
    absent = np.arange(len(weight)) >= size.num_edges
    assert not np.any(np.asarray(shares)[absent | (weight <= 0)])


@pytest.mark.parametrize(("implementation", "spec", "dtype"), cases("edge_attention", ARG_SPECS))
def test_against_reference(implementation, spec, dtype):
    assert_close(_run(implementation, spec, dtype), _reference(spec, dtype), dtype)


@pytest.mark.parametrize("implementation", [*backends("edge_attention"), None])
@pytest.mark.parametrize("spec", ["plain", "one_row"])
def test_without_relations_and_weights(implementation, spec):
    got, want = _run(implementation, spec, "float32", bare=True), _reference(spec, "float32", bare=True)
    assert_close(got, want)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(want[1]))


@pytest.mark.parametrize("implementation", [*backends("edge_attention"), "reference"])
def test_gradient_of_merged_attentions(implementation):
    """Two halves of a graph merged by their logsumexp are the whole, and so are their gradients."""
    rng = np.random.default_rng(1)
    senders, receivers = rng.integers(0, 9, 40), rng.integers(0, 7, 40)

    def graph_of(pick):
        return ops.build_graph(senders[pick], receivers[pick], num_senders=9, num_receivers=7)

    whole, first, second = graph_of(slice(None)), graph_of(slice(0, 15)), graph_of(slice(15, None))
    query, x = (jnp.asarray(rng.normal(size=(rows, 8)), jnp.float32) for rows in (7, 9))
    attend = functools.partial(ops.edge_attention, implementation=implementation)

    def merged(query, x):
        a, b = attend(first, query, x), attend(second, query, x)
        total = jnp.logaddexp(a.logsumexp, b.logsumexp)
        safe = jnp.where(jnp.isfinite(total), total, jnp.float32(0))
        mixed = jnp.exp(a.logsumexp - safe)[:, None] * a.values + jnp.exp(b.logsumexp - safe)[:, None] * b.values
        return jnp.sum(jnp.sin(mixed))

    def direct(query, x):
        return jnp.sum(jnp.sin(attend(whole, query, x).values))

    got = jax.jit(jax.value_and_grad(merged, argnums=(0, 1)))(query, x)
    assert_close(got, jax.jit(jax.value_and_grad(direct, argnums=(0, 1)))(query, x))


@pytest.mark.parametrize("implementation", backends("edge_attention"))
def test_vmap(implementation):
    graph, query, x, vectors, weight = make_args("plain", jnp.float32)
    queries = jnp.stack([query, -query])

    def loss(query, x):
        out = ops.edge_attention(graph, query, x, vectors, weight=weight, implementation=implementation)
        return jnp.sum(jnp.sin(out.values)) + jnp.sum(jnp.where(out.logsumexp > -10, out.logsumexp, 0))

    together = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1)), in_axes=(0, None)))(queries, x)
    one = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for i in range(2):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), one(queries[i], x))


@pytest.mark.parametrize("implementation", backends("edge_attention"))
def test_shard_map_over_rows(implementation):
    needs_devices(8)
    graph, query, x, vectors, _ = make_args("plain", jnp.float32)
    mesh = jax.make_mesh((8,), ("copies",), axis_types=(AxisType.Auto,))
    scales = jnp.linspace(0.5, 2.0, 8)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("copies"), P()), out_specs=P())
    def sharded(scale, x):
        out = ops.edge_attention(graph, query * scale[0], x, vectors, implementation=implementation)
        return jax.lax.psum(jnp.sum(jnp.sin(out.values)), "copies")

    def single(scales, x):
        out = [ops.edge_attention(graph, query * s, x, vectors, implementation="reference") for s in scales]
        return sum(jnp.sum(jnp.sin(part.values)) for part in out)

    got = jax.jit(jax.value_and_grad(sharded, argnums=(0, 1)))(scales, x)
    assert_close(got, jax.jit(jax.value_and_grad(single, argnums=(0, 1)))(scales, x))


@pytest.mark.parametrize("implementation", backends("edge_attention"))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_rows(implementation, value):
    graph, query, x, vectors, weight = make_args("plain", jnp.float32)
    x = x.at[2].set(value)
    got = ops.edge_attention(graph, query, x, vectors, weight=weight, implementation=implementation)
    want = ops.edge_attention(graph, query, x, vectors, weight=weight, implementation="reference")
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        keep = np.isfinite(b)
        np.testing.assert_allclose(np.asarray(a)[keep], np.asarray(b)[keep], rtol=1e-5, atol=1e-5)
    assert np.isfinite(want.values).all(axis=1).any()


@pytest.mark.parametrize("implementation", backends("edge_attention"))
def test_large_logits(implementation):
    graph, query, x, vectors, weight = make_args("hub", jnp.float32)
    got = ops.edge_attention(graph, query * 300, x, vectors, weight=weight, implementation=implementation)
    want = ops.edge_attention(graph, query * 300, x, vectors, weight=weight, implementation="reference")
    assert np.isfinite(got.values).all()
    assert_close(got, want)


def test_wrong_arguments():
    graph, query, x, vectors, weight = make_args("plain", jnp.float32)
    with pytest.raises(ValueError, match="`query` must be a matrix as wide as `x`"):
        unchecked(ops.edge_attention)(graph, query[:, :-1], x, vectors)
    with pytest.raises(TypeError, match=r"all bfloat16: `(x|query)` is"):
        unchecked(ops.edge_attention)(graph, query.astype(jnp.bfloat16), x, vectors)
    with pytest.raises(ValueError, match=r"`graph\.edges\.relation` is None"):
        unchecked(ops.edge_attention)(graph._replace(edges=ops.Edges(weight)), query, x, vectors)
    with pytest.raises(ValueError, match="one entry per edge slot"):
        unchecked(ops.edge_attention)(graph, query, x, vectors, weight=weight[1:])

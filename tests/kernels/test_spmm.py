"""spmm and sddmm: every implementation against the reference, the reference against dense NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import DTYPES, assert_close, backends, cases, needs_devices, unchecked
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from slif_jax import ops
from slif_jax.kernels.spmm.arg_specs import ARG_SPECS, make_args


def _cotangent(shape, dtype):
    return jnp.asarray(np.random.default_rng(9).normal(size=shape).astype(dtype))


def _run_spmm(implementation, spec, dtype):
    graph, y, x = make_args(spec, DTYPES[dtype])

    @jax.jit
    def run(graph, x, weight, ct):
        out, vjp = jax.vjp(lambda x, w: ops.spmm(graph, x, w, implementation=implementation), x, weight)
        return out, vjp(ct)

    return run(graph, x, graph.edges.weight, _cotangent(y.shape, y.dtype))


def _run_sddmm(implementation, spec, dtype):
    graph, y, x = make_args(spec, DTYPES[dtype])

    @jax.jit
    def run(graph, y, x, ct):
        out, vjp = jax.vjp(lambda y, x: ops.sddmm(graph, y, x, implementation=implementation), y, x)
        return out, vjp(ct)

    return run(graph, y, x, _cotangent(graph.senders.shape, jnp.float32))


_spmm_reference = functools.lru_cache(functools.partial(_run_spmm, "reference"))
_sddmm_reference = functools.lru_cache(functools.partial(_run_sddmm, "reference"))


def _dense(graph, spec):
    """The matrix of the graph, from senders and receivers alone."""
    size = ARG_SPECS[spec]
    matrix = np.zeros((size.num_receivers, size.num_senders))
    real = slice(0, size.num_edges)
    np.add.at(matrix, (graph.receivers[real], graph.senders[real]), np.asarray(graph.edges.weight[real], np.float64))
    return matrix


@pytest.mark.parametrize("spec", ARG_SPECS)
def test_reference_against_dense(spec):
    graph, y, x = make_args(spec, jnp.float32)
    out, (dx, dw) = _spmm_reference(spec, "float32")
    matrix, ct = _dense(graph, spec), np.asarray(_cotangent(y.shape, y.dtype), np.float64)
    np.testing.assert_allclose(out, matrix @ np.asarray(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, matrix.T @ ct, rtol=1e-4, atol=1e-4)
    real = ARG_SPECS[spec].num_edges
    products = (ct @ np.asarray(x, np.float64).T)[graph.receivers, graph.senders]
    np.testing.assert_allclose(dw[:real], products[:real], rtol=1e-4, atol=1e-4)
    assert not np.any(dw[real:])
    scores, _ = _sddmm_reference(spec, "float32")
    products = (np.asarray(y, np.float64) @ np.asarray(x, np.float64).T)[graph.receivers, graph.senders]
    np.testing.assert_allclose(scores[:real], products[:real], rtol=1e-4, atol=1e-4)
    assert not np.any(scores[real:])


@pytest.mark.parametrize(("implementation", "spec", "dtype"), cases("spmm", ARG_SPECS))
def test_spmm_against_reference(implementation, spec, dtype):
    if implementation == "pallas_tpu" and not ARG_SPECS[spec].ell:
        with pytest.raises(ValueError, match="needs a graph with slots"):
            _run_spmm(implementation, spec, dtype)
        return
    assert_close(_run_spmm(implementation, spec, dtype), _spmm_reference(spec, dtype), dtype)


@pytest.mark.parametrize(("implementation", "spec", "dtype"), cases("sddmm", ARG_SPECS))
def test_sddmm_against_reference(implementation, spec, dtype):
    assert_close(_run_sddmm(implementation, spec, dtype), _sddmm_reference(spec, dtype), dtype)


@pytest.mark.parametrize("spec", ["plain", "wide"])
def test_default_against_reference(spec):
    assert_close(_run_spmm(None, spec, "float32"), _spmm_reference(spec, "float32"))
    assert_close(_run_sddmm(None, spec, "float32"), _sddmm_reference(spec, "float32"))


@pytest.mark.parametrize("implementation", backends("sddmm"))
def test_without_layout_and_second_derivative(implementation):
    graph, y, x = make_args("empty_rows_padded", jnp.float32)
    bare = graph._replace(globals=None)
    out = ops.spmm(bare, x, num_receivers=y.shape[0], implementation=implementation)
    assert_close(out, ops.spmm(graph, x, implementation="reference"))

    def curvature(name):
        def loss(x, w):
            return jnp.sum(ops.spmm(graph, x, w, implementation=name) ** 2)

        def slope(x, w):
            dx, dw = jax.grad(loss, argnums=(0, 1))(x, w)
            return jnp.sum(dx**2) + jnp.sum(dw**2)

        return jax.jit(jax.grad(slope, argnums=(0, 1)))(x, graph.edges.weight)

    assert_close(curvature(implementation), curvature("reference"))


@pytest.mark.parametrize("implementation", backends("sddmm"))
def test_one_gradient_alone(implementation):
    graph, _, x = make_args("plain", jnp.float32)

    def loss(x, w):
        return jnp.sum(jnp.sin(ops.spmm(graph, x, w, implementation=implementation)))

    both = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, graph.edges.weight)
    assert_close(jax.jit(jax.grad(loss))(x, graph.edges.weight), both[0])
    assert_close(jax.jit(jax.grad(loss, argnums=1))(x, graph.edges.weight), both[1])


@pytest.mark.parametrize("implementation", backends("sddmm"))
def test_vmap(implementation):
    graph, y, x = make_args("plain", jnp.float32)
    xs, ws = jnp.stack([x, 2 * x, -x]), jnp.stack([graph.edges.weight] * 3)

    def loss(x, w):
        out = ops.spmm(graph, x, w, implementation=implementation)
        return jnp.sum(out * ops.spmm(graph, x, w**2, implementation=implementation))

    together = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(xs, ws)
    one = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for i in range(3):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), one(xs[i], ws[i]))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), graph)
    scores = jax.vmap(lambda g, y, x: ops.sddmm(g, y, x, implementation=implementation))
    assert_close(scores(stacked, jnp.stack([y, y]), xs[:2])[1], ops.sddmm(graph, y, xs[1], implementation="reference"))


@pytest.mark.parametrize("implementation", backends("sddmm"))
def test_shard_map_over_rows(implementation):
    needs_devices(8)
    rng = np.random.default_rng(3)
    senders, receivers, weight = rng.integers(0, 24, 100), rng.integers(0, 24, 100), rng.random(100)
    whole: Any = ops.build_graph(senders, receivers, weight, num_senders=24, num_receivers=24)
    parts = []
    for shard in range(8):
        own = receivers // 3 == shard
        part = ops.build_graph(senders[own], receivers[own] % 3, weight[own], num_senders=24, num_receivers=3)
        parts.append(ops.pad_edges(part, 40))
    graphs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    x = jnp.asarray(rng.normal(size=(24, 16)), jnp.float32)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("rows"), P("rows"), P()), out_specs=P("rows"))
    def sharded(graphs, local, scale):
        graph = jax.tree.map(lambda leaf: leaf[0], graphs)
        table = jax.lax.all_gather(local, "rows", tiled=True) * scale
        return ops.spmm(graph, table, implementation=implementation) + ops.spmm(
            graph, jnp.broadcast_to(scale, (24, 16)), implementation=implementation
        )

    def loss(x, scale):
        return jnp.sum(jnp.sin(sharded(graphs, x, scale)))

    def loss_whole(x, scale):
        table = jnp.broadcast_to(scale, (24, 16))
        out = ops.spmm(whole, x * scale, implementation="reference") + ops.spmm(
            whole, table, implementation="reference"
        )
        return jnp.sum(jnp.sin(out))

    scale = jnp.full((1, 1), 1.5, jnp.float32)
    got = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, scale)
    assert_close(got, jax.jit(jax.value_and_grad(loss_whole, argnums=(0, 1)))(x, scale))


@pytest.mark.parametrize("implementation", backends("spmm"))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_rows(implementation, value):
    graph, _, x = make_args("plain", jnp.float32)
    x = x.at[2].set(value)
    want = ops.spmm(graph, x, implementation="reference")
    assert_close(ops.spmm(graph, x, implementation=implementation), want)
    assert np.isfinite(want).any()


def test_weightless_graph_sums():
    graph: Any = ops.build_graph([0, 1, 1], [1, 1, 0], num_senders=2, num_receivers=3)
    x = jnp.asarray([[1.0, 2.0], [10.0, 20.0]], jnp.float32)
    np.testing.assert_array_equal(ops.spmm(graph, x), [[10, 20], [11, 22], [0, 0]])


def test_wrong_arguments():
    graph, y, x = make_args("plain", jnp.float32)
    with pytest.raises(ValueError, match="built for 7 receivers and 9 senders"):
        unchecked(ops.spmm)(graph, x[:-1])
    with pytest.raises(TypeError, match="float32 or bfloat16: got float16"):
        unchecked(ops.spmm)(graph, x.astype(jnp.float16))
    with pytest.raises(ValueError, match="`weight` must have one entry per edge slot"):
        unchecked(ops.spmm)(graph, x, graph.edges.weight[:-1])
    with pytest.raises(ValueError, match="`x` must be a matrix"):
        unchecked(ops.spmm)(graph, x[0])
    with pytest.raises(TypeError, match="same dtype"):
        unchecked(ops.sddmm)(graph, y.astype(jnp.bfloat16), x)

"""topk: every implementation against the reference, the reference against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import DTYPES, assert_close, backends, cases, needs_devices, unchecked
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from slif_jax import ops
from slif_jax.kernels.topk import xla
from slif_jax.kernels.topk.arg_specs import ARG_SPECS, make_args


def _run(implementation, spec, dtype="float32"):
    args, options = make_args(spec, DTYPES[dtype])
    return ops.topk(*args, **options, implementation=implementation)


_reference = functools.lru_cache(functools.partial(_run, "reference"))


def _assert_same_choice(got, want, dtype="float32"):
    assert_close(got.values, want.values, dtype)
    # Where neighbours in the list are nearly equal, rounding may swap them.
    values = np.where(np.isfinite(want.values), want.values, np.float32(-1e6) - np.arange(want.values.shape[1]))
    gaps = values[:, :-1] - values[:, 1:] > 1e-4
    clear = np.pad(gaps, ((0, 0), (1, 0)), constant_values=True) & np.pad(gaps, ((0, 0), (0, 1)), constant_values=True)
    np.testing.assert_array_equal(np.asarray(got.indices)[clear], np.asarray(want.indices)[clear])


@pytest.mark.parametrize("spec", ARG_SPECS)
def test_reference_against_numpy(spec):
    (queries, keys, k), _ = make_args(spec, jnp.float32)
    size, options = ARG_SPECS[spec], make_args(spec, jnp.float32)[1]
    got = _reference(spec)
    scores = np.asarray(queries, np.float64) @ np.asarray(keys, np.float64).T
    for row in range(size.num_queries):
        allowed = set(range(size.num_keys if size.limit is None else size.limit))
        if size.exclude == "self":
            allowed -= {row + size.row_offset}
        elif size.exclude == "list":
            starts, ids = options["exclude"]
            allowed -= set(np.asarray(ids[starts[row] : starts[row + 1]]).tolist())
        best = sorted(allowed, key=lambda key, row=row: (-scores[row, key], key))[:k]
        best += [-1] * (k - len(best))
        np.testing.assert_array_equal(got.indices[row], best)
        values = [scores[row, key] if key >= 0 else -np.inf for key in best]
        np.testing.assert_allclose(got.values[row], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("implementation", "spec", "dtype"), cases("topk", ARG_SPECS))
def test_against_reference(implementation, spec, dtype):
    got, want = _run(implementation, spec, dtype), _reference(spec, dtype)
    if ARG_SPECS[spec].integers:  # exact scores: ties must fall to the lower index
        np.testing.assert_array_equal(got.values, want.values)
        np.testing.assert_array_equal(got.indices, want.indices)
    else:
        _assert_same_choice(got, want, dtype)


def test_default_against_reference():
    _assert_same_choice(_run(None, "self"), _reference("self"))


@pytest.mark.parametrize("implementation", [*backends("topk"), "reference"])
def test_nan_and_infinity(implementation):
    keys = jnp.asarray([[1.0], [np.nan], [np.inf], [-np.inf], [2.0], [0.0], [-0.0]], jnp.float32)
    got = ops.topk(jnp.ones((1, 1)), keys, 7, implementation=implementation)
    np.testing.assert_array_equal(got.indices, [[2, 4, 0, 5, 6, -1, -1]])
    np.testing.assert_array_equal(got.values, [[np.inf, 2, 1, 0, 0, -np.inf, -np.inf]])


@pytest.mark.parametrize("implementation", backends("topk"))
def test_several_blocks(implementation, monkeypatch):
    monkeypatch.setattr(xla, "_BLOCK_SCORES", 1000)
    monkeypatch.setattr(xla, "_WINDOW", 7)
    rng = np.random.default_rng(5)
    queries, keys = (jnp.asarray(rng.integers(-3, 4, size), jnp.float32) for size in ((53, 6), (211, 6)))
    rows = [np.flatnonzero(rng.random(211) < rate) for rate in rng.random(53)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    exclude = ops.Exclusions(jnp.asarray(starts, jnp.int32), jnp.asarray(np.concatenate(rows), jnp.int32))
    got = ops.topk(queries, keys, 11, exclude=exclude, implementation=implementation)
    want = ops.topk(queries, keys, 11, exclude=exclude, implementation="reference")
    assert_close(got, want)


@pytest.mark.parametrize("implementation", backends("topk"))
def test_jit_vmap_and_gradient(implementation):
    (queries, keys, k), _ = make_args("plain", jnp.float32)
    find = functools.partial(ops.topk, k=k, implementation=implementation, exclude="self")
    stacked = jnp.stack([queries, -queries])
    limits, offsets = jnp.asarray([40, 11], jnp.int32), jnp.asarray([0, 3], jnp.int32)
    together = jax.jit(jax.vmap(lambda q, n, o: find(q, keys, num_keys=n, row_offset=o)))(stacked, limits, offsets)
    for i in range(2):
        alone = find(stacked[i], keys, num_keys=int(limits[i]), row_offset=int(offsets[i]))
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone)
    assert not np.any(jax.grad(lambda q: find(q, keys).values.sum())(queries))


@pytest.mark.parametrize("implementation", backends("topk"))
def test_shard_map_over_rows(implementation):
    needs_devices(8)
    keys = jnp.asarray(np.random.default_rng(0).integers(-3, 4, (40, 5)), jnp.float32)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("rows"), P()), out_specs=P("rows"))
    def sharded(queries, keys):
        offset = jax.lax.axis_index("rows") * jnp.int32(5)
        return ops.topk(queries, keys, 4, exclude="self", row_offset=offset, implementation=implementation)

    assert_close(jax.jit(sharded)(keys, keys), ops.topk(keys, keys, 4, exclude="self", implementation="reference"))


def test_recall_target_is_exact_off_tpu():
    (queries, keys, k), _ = make_args("plain", jnp.float32)
    got = ops.topk(queries, keys, k, recall_target=0.9, implementation="xla")
    _assert_same_choice(got, _reference("plain"))


def test_wrong_arguments():
    (queries, keys, k), options = make_args("list", jnp.float32)
    with pytest.raises(ValueError, match="equally wide"):
        unchecked(ops.topk)(queries[:, :-1], keys, k)
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        unchecked(ops.topk)(queries, keys, 0)
    with pytest.raises(ValueError, match="must be None, 'self' or Exclusions"):
        unchecked(ops.topk)(queries, keys, k, exclude="itself")
    with pytest.raises(ValueError, match="one entry more than there are queries"):
        unchecked(ops.topk)(queries[1:], keys, k, exclude=options["exclude"])
    with pytest.raises(TypeError, match="both be float32 or bfloat16"):
        unchecked(ops.topk)(queries, keys.astype(jnp.bfloat16), k)

"""The choice of implementations: complete, explained, and made at lowering."""

import jax
import jax.export
import jax.numpy as jnp
import pytest
from battery import backends, cases

from slif_jax import ops
from slif_jax.kernels import dispatch, native
from slif_jax.kernels.spmm.arg_specs import ARG_SPECS, make_args

# pallas_tpu calls this one on a TPU; ours are the rest.
_ALLOWED = [
    jax.export.DisabledSafetyCheck.custom_call(name)
    for name in ("tpu_custom_call", *(f"slif_{target}" for target in native.TARGETS))
]


@pytest.mark.parametrize("op", dispatch.OPS)
def test_no_backend_is_skipped_silently(op):
    absent = {name: dispatch.why_not(op, name) for name in dispatch.NAMES[op] if not ops.is_supported(op, name)}
    assert {*backends(op), *absent, "reference"} == set(dispatch.NAMES[op])
    assert all(reason for reason in absent.values())
    assert len(cases(op, ARG_SPECS)) >= len(backends(op)) * len(ARG_SPECS)
    if native.LIBRARY.exists():
        assert "native" in backends(op), absent
    for name, reason in absent.items():
        print(f"{op}: {name} was not tested: {reason}")


def test_every_platform_has_an_order():
    for platform, table in dispatch.TABLE.items():
        assert set(table) == set(dispatch.OPS)
        for op, names in table.items():
            assert set(names) <= set(dispatch.NAMES[op])
            assert names[-1] == "xla"
            assert dispatch.default_order(op, platform)


def test_unknown_and_absent_implementations(monkeypatch):
    graph, _, x = make_args("plain", jnp.float32)
    with pytest.raises(ValueError, match=r"Unknown implementation 'triton' for spmm\. Available here: 'reference'"):
        ops.spmm(graph, x, implementation="triton")
    monkeypatch.setattr(native, "_state", ["the library was eaten"])
    message = r"Implementation 'native' of spmm cannot run here\..*'native' is absent: the library was eaten\."
    with pytest.raises(ValueError, match=message):
        ops.spmm(graph, x, implementation="native")
    assert dispatch.default_order("topk", "cpu") == ("xla",)
    jax.clear_caches()
    ops.spmm(graph, x)  # the default never fails
    jax.clear_caches()  # forget this choice


def test_default_implementation_is_used_when_tracing():
    graph, _, x = make_args("plain", jnp.float32)

    def uses_native():
        return "slif_spmm" in jax.jit(lambda x: ops.spmm(graph, x)).lower(x).as_text()

    with ops.default_implementation("xla"):
        assert not uses_native()
        with ops.default_implementation("auto"):
            assert uses_native() == dispatch.is_supported("spmm", "native")
        assert not uses_native()
    assert uses_native() == dispatch.is_supported("spmm", "native")
    with pytest.raises(ValueError, match="Unknown implementation 'triton'"), ops.default_implementation("triton"):
        pass


def _programs():
    graph, y, x = make_args("plain", jnp.float32)
    neighbors = jnp.zeros((9, 3), jnp.int32)

    def spmm(x):
        return jax.grad(lambda x, w: ops.spmm(graph, x, w).sum(), argnums=(0, 1))(x, graph.edges.weight)

    def fixed(x):
        return ops.spmm(ops.fixed_degree_graph(neighbors, jnp.ones((9, 3)), 9), x)

    def attend(x):
        vectors = jnp.ones((4, x.shape[1]))
        return jax.grad(lambda x: ops.edge_attention(graph, y, x, vectors).values.sum())(x)

    def topk(x):
        exclude = ops.Exclusions(jnp.zeros((10,), jnp.int32), jnp.zeros((3,), jnp.int32))
        return ops.topk(x, x, 2, exclude="self"), ops.topk(x, x, 2, exclude=exclude, recall_target=0.9)

    return {"spmm": spmm, "fixed": fixed, "attend": attend, "topk": topk}, x


@pytest.mark.parametrize("name", ["spmm", "fixed", "attend", "topk"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for(platform, name):
    programs, x = _programs()
    text = jax.export.export(jax.jit(programs[name]), platforms=[platform], disabled_checks=_ALLOWED)(x).mlir_module()
    assert ("@slif_" in text) == (platform == "cpu" and dispatch.is_supported("spmm", "native"))
    assert ("tpu_custom_call" in text) == (platform == "tpu" and name == "fixed")
    if name == "topk":
        assert ("ApproxTopK" in text or "PartialReduce" in text) == (platform == "tpu")


def test_one_program_for_several_platforms():
    programs, x = _programs()
    exported = jax.export.export(jax.jit(programs["attend"]), platforms=["cpu", "cuda"], disabled_checks=_ALLOWED)(x)
    assert jnp.allclose(exported.call(x), jax.jit(programs["attend"])(x))

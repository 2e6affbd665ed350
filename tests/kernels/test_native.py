"""The native library: determinism, instruction sets, bad indices, loading, memory safety."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from programs import QUICK_XLA

from slif_jax import ops
from slif_jax.kernels import native
from slif_jax.kernels.edge_attention.arg_specs import make_args

ROOT = Path(__file__).resolve().parents[2]
needs_native = pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))

# Runs every kernel on graphs large enough for several chunks and prints what came out.
_PROGRAM = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
from slif_jax import ops
from slif_jax.kernels import native
from slif_jax.kernels.edge_attention import arg_specs
from slif_jax.kernels.layout.arg_specs import GraphSpec
if len(sys.argv) > 1:
    from pathlib import Path
    native.LIBRARY = Path(sys.argv[1])
arg_specs.ARG_SPECS["large"] = GraphSpec(300, 500, 20000, 40, padding=3)
results = []
for name in ("large", "wide", "one_row", "no_edges"):
    graph, query, x, vectors, weight = arg_specs.make_args(name, jnp.float32)
    exclude = ops.Exclusions(graph.globals.indptr, graph.senders[: int(graph.globals.indptr[-1])])
    def run(query, x, vectors, weight):
        def attend(*args):
            return ops.edge_attention(graph, *args[:3], weight=args[3], implementation="native")
        out, vjp = jax.vjp(attend, query, x, vectors, weight)
        results = [*out, *vjp(out._replace(logsumexp=jnp.ones_like(out.logsumexp)))]
        for dtype in (jnp.float32, jnp.bfloat16):
            low = x.astype(dtype)
            out, vjp = jax.vjp(lambda x, w: ops.spmm(graph, x, w, implementation="native"), low, weight)
            results += [out, *vjp(out)]
        results += ops.topk(query, x, 7, exclude=exclude, implementation="native")
        return results + [*ops.topk(x, x, 7, exclude="self", implementation="native")]
    results += jax.jit(run)(query, x, vectors, weight)
digest = hashlib.sha256(b"".join(np.asarray(r).tobytes() for r in results)).hexdigest()
size = float(sum(np.abs(np.nan_to_num(np.asarray(r, np.float64), posinf=0, neginf=0)).sum() for r in results))
print("RESULT", digest, size, native.isa())
"""


@functools.lru_cache
def _run(*args: str, **env: str) -> tuple[str, float, str]:
    # A path on the command line comes first; the checkout is found whether or not it is installed.
    merged = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_XLA} | env
    command = [sys.executable, "-c", _PROGRAM, *args]
    done = subprocess.run(command, env=merged, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"RESULT (\w+) (\S+) (\w+)", done.stdout)
    assert found, done.stdout
    return found[1], float(found[2]), found[3]


@needs_native
def test_same_bits_for_any_number_of_threads():
    assert _run(NPROC="1")[0] == _run(NPROC="7")[0]


@needs_native
def test_instruction_sets_agree():
    sizes = {}
    for name in ("baseline", "avx2", None):  # None: the best that this processor has
        _, size, used = _run(NPROC="7") if name is None else _run(SLIF_NATIVE_ISA=name)
        sizes[used] = size
    assert "baseline" in sizes
    assert max(sizes.values()) - min(sizes.values()) < 1e-4 * max(sizes.values()), sizes


@needs_native
def test_same_bits_on_every_call():
    graph, query, x, vectors, weight = make_args("hub", jnp.float32)
    run = jax.jit(
        jax.grad(lambda *args: ops.edge_attention(graph, *args, weight=weight).values.sum(), argnums=(0, 1, 2))
    )
    first = jax.tree.map(np.asarray, run(query, x, vectors))
    for _ in range(5):
        for a, b in zip(first, run(query, x, vectors), strict=True):
            np.testing.assert_array_equal(a, b)


def _broken(**changes):
    graph, query, x, vectors, weight = make_args("plain", jnp.float32)
    layout = {key: changes.pop(key) for key in list(changes) if key in ops.Layout._fields}
    graph = graph._replace(**changes, globals=graph.globals._replace(ell=None, t_ell=None, **layout))
    return graph, query, x, vectors, weight


@needs_native
@pytest.mark.parametrize("bad", [-1, 9, 2**31 - 1])
def test_wrong_senders_are_refused(bad):
    graph, query, x, vectors, _ = _broken(senders=make_args("plain", jnp.float32)[0].senders.at[17].set(bad))
    for call in (
        lambda: ops.spmm(graph, x, implementation="native"),
        lambda: ops.sddmm(graph, query, x, implementation="native"),
        lambda: ops.edge_attention(graph, query, x, vectors, implementation="native"),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="an index out of range"):
            jax.block_until_ready(call())


@needs_native
@pytest.mark.parametrize("field", ["t_receivers", "t_perm"])
def test_wrong_transposed_indices_are_refused(field):
    layout = make_args("plain", jnp.float32)[0].globals
    graph, query, x, vectors, _ = _broken(**{field: getattr(layout, field).at[3].set(10**6)})
    for loss in (
        lambda x: ops.spmm(graph, x, implementation="native").sum(),
        lambda x: ops.edge_attention(graph, query, x, vectors, implementation="native").values.sum(),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="an index out of range"):
            jax.block_until_ready(jax.grad(loss)(x))


@needs_native
def test_wrong_relations_and_starts_are_refused():
    graph, query, x, vectors, _ = _broken()
    few = functools.partial(ops.edge_attention, graph, query, x, implementation="native")
    with pytest.raises(jax.errors.JaxRuntimeError, match="an index out of range"):
        jax.block_until_ready(few(vectors[:2]))
    for starts in ([0, 5, 4, 30, 30, 30, 30, 30], [0, 1, 2, 3, 4, 5, 6, 31], [-1, 1, 2, 3, 4, 5, 6, 7]):
        graph, _, x, _, _ = _broken(indptr=jnp.asarray(starts, jnp.int32))
        with pytest.raises(jax.errors.JaxRuntimeError, match="not ascending, or points past"):
            jax.block_until_ready(ops.spmm(graph, x, implementation="native"))


def test_a_library_that_does_not_load_is_explained(tmp_path, monkeypatch):
    broken = tmp_path / "slif_native.so"
    broken.write_text("not a library")
    monkeypatch.setattr(native, "_state", [])
    monkeypatch.setattr(native, "LIBRARY", broken)
    assert "loading slif_native.so failed" in str(native.unavailable_reason())
    monkeypatch.setattr(native, "_state", [])
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "absent.so")
    assert "was not built" in str(native.unavailable_reason())
    graph, _, x, *_ = make_args("plain", jnp.float32)
    jax.clear_caches()
    assert np.isfinite(ops.spmm(graph, x)).all()
    jax.clear_caches()  # forget this choice


@pytest.mark.slow
def test_memory_safety_under_address_sanitizer(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here, so no AddressSanitizer")
    # The sanitizer must come first in the process, and the C++ runtime with it, or exceptions escape it.
    preload = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not all(Path(path).is_absolute() for path in preload):
        pytest.skip("g++ came without libasan")
    library = tmp_path / "slif_native.so"
    flags = ["-O0", "-g1", "-std=c++17", "-fno-math-errno", "-fPIC", "-shared", "-fsanitize=address", "-w"]
    source = ROOT / "kernels" / "native" / "kernels.cc"
    include = Path(jaxlib.__file__).parent / "include"
    subprocess.run([compiler, *flags, f"-I{include}", str(source), "-o", str(library)], check=True, timeout=600)
    options = {"LD_PRELOAD": " ".join(preload), "ASAN_OPTIONS": "detect_leaks=0"}
    for name in ("baseline", "avx2", "avx512"):
        _run(str(library), SLIF_NATIVE_ISA=name, **options)

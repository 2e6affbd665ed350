"""slif_jax as a library: what an import does not touch, and what holds of every public name."""

import doctest
import functools
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jax.sharding import PartitionSpec

import slif_jax
from slif_jax import correlation, graphs, losses, ops, propagate, sampling

ROOT = Path(__file__).resolve().parents[1]

PROBE = """
import json, logging, os, sys, time, warnings
def state():
    import jax
    from jax._src import xla_bridge
    root = logging.root
    return {
        "backends": xla_bridge.backends_are_initialized(),
        "environment": dict(os.environ),
        "filters": [str(entry) for entry in warnings.filters],
        "config": {name: str(value) for name, value in jax.config.values.items()},
        "log": [root.level, len(root.handlers), logging.getLoggerClass().__name__, root.disabled],
    }
before = time.perf_counter()
import slif_jax
seconds = time.perf_counter() - before
loaded = [name for name in sys.modules if name.split(".")[0] in ("jax", "numpy", "flax")]
import jax, jax.scipy.special
first = state()
for name in slif_jax.__all__:
    getattr(slif_jax, name)
second = state()
from absl import flags
mine = [name for name in flags.FLAGS.flags_by_module_dict() if name.split(".")[0] in ("slif_jax", "experiments")]
heavy = [name for name in ("matplotlib", "orbax", "sklearn", "polars", "torch", "tensorflow") if name in sys.modules]
print(json.dumps([seconds, loaded, first, second, mine, heavy]))
"""


def test_importing_touches_no_device_flag_file_or_global_state(tmp_path: Path):
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seconds, loaded, first, second, mine, heavy = json.loads(done.stdout)
    assert seconds < 1.5
    assert loaded == []  # a module is loaded when it is named
    assert not second["backends"]
    for part in ("environment", "filters", "config", "log"):
        assert second[part] == first[part], part
    assert mine == []
    assert heavy == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_unknown_module_is_an_attribute_error_that_names_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'\. Its modules: collectives, config"):
        _ = slif_jax.nothing  # pyright: ignore[reportAttributeAccessIssue]
    assert set(slif_jax.__all__) <= set(dir(slif_jax))


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class, by the name under which a user finds it; methods too."""
    for module_name in slif_jax.__all__:
        module = getattr(slif_jax, module_name)
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            if name.startswith("_") or not callable(value):
                continue
            owner = getattr(value, "__module__", "") or ""
            if owner != module.__name__ and not (hasattr(module, "__all__") and owner.startswith("slif_jax")):
                continue
            yield f"{module_name}.{name}", value
            if inspect.isclass(value):
                for key, member in vars(value).items():
                    ours = getattr(member, "__module__", "").startswith("slif_jax")
                    if ours and not key.startswith("_") and inspect.isfunction(member):
                        yield f"{module_name}.{name}.{key}", member


PUBLIC = dict(public())


def test_every_public_name_has_a_docstring_types_and_shapes():
    undocumented, untyped, shapeless = [], [], []
    for name, value in PUBLIC.items():
        text = inspect.getdoc(value) or ""
        if not text or text.startswith(f"{value.__name__}("):  # what a NamedTuple or a dataclass makes up
            undocumented.append(name)
        if inspect.isclass(value):
            continue
        signature = inspect.signature(value)
        kinds = {key: part.annotation for key, part in signature.parameters.items() if key not in ("self", "cls")}
        kinds["return"] = signature.return_annotation
        untyped += [f"{name}: {key}" for key, kind in kinds.items() if kind is inspect.Parameter.empty]
        # A jaxtyping annotation has the shape; a bare array needs it in words.
        bare = [key for key, kind in kinds.items() if kind in (jax.Array, np.ndarray, "Array", "np.ndarray")]
        if bare and not any(word in text for word in ("`[", "calar", "shape")):
            shapeless.append(f"{name}: {', '.join(bare)}")
    assert len(PUBLIC) > 100
    assert undocumented == []
    assert untyped == []
    assert shapeless == []


def test_the_examples_in_docstrings_are_true():
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    texts = {name: inspect.cleandoc(value.__doc__ or "") for name, value in PUBLIC.items()}
    shown: list[str] = []
    found = 0
    for name, text in (texts | {"slif_jax": slif_jax.__doc__ or ""}).items():
        test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
        found += bool(test.examples)
        runner.run(test, out=shown.append)
    assert not shown, "".join(shown)
    assert found >= 8


NODES, WIDTH, NEIGHBORS = 6, 4, 2
SENDERS, RECEIVERS = np.array([1, 2, 0, 3, 4, 5, 0]), np.array([0, 0, 1, 2, 3, 4, 5])


def graph() -> Any:
    return ops.build_graph(
        SENDERS, RECEIVERS, np.linspace(0.5, 2.0, 7), SENDERS % 2, num_senders=NODES, num_receivers=NODES
    )


def rows(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


X, Y, W = rows(0, NODES, WIDTH), rows(1, NODES, WIDTH), jnp.abs(rows(2, 7)) + 0.1
RELATIONS = rows(3, 2, WIDTH)
EVERY = np.ones((NODES, NODES), bool)
# Name: a function of float arrays, and such arrays.
CASES: dict[str, tuple[Callable[..., Any], tuple[jax.Array, ...]]] = {
    "ops.spmm": (lambda x, w: ops.spmm(graph(), x, w), (X, W)),
    "ops.sddmm": (lambda y, x: ops.sddmm(graph(), y, x), (Y, X)),
    "ops.edge_attention": (lambda q, x, v: ops.edge_attention(graph(), q, x, v).values, (Y, X, RELATIONS)),
    "ops.topk": (lambda q, x: ops.topk(q, x, NEIGHBORS, exclude="self").values, (Y, X)),
    "graphs.symmetric_normalise": (
        lambda w: graphs.symmetric_normalise(jnp.asarray(SENDERS), jnp.asarray(RECEIVERS), w, num_nodes=NODES),
        (W,),
    ),
    "graphs.nearest_neighbors": (lambda x: graphs.nearest_neighbors(x, NEIGHBORS), (X,)),
    "propagate.propagate": (lambda x: propagate.propagate(graph(), x, num_layers=2), (X,)),
    "propagate.propagate_features": (lambda x: propagate.propagate_features(graph(), x, num_layers=2), (X,)),
    "propagate.attend_knowledge": (lambda q, x, v: propagate.attend_knowledge(graph(), q, x, v), (Y, X, RELATIONS)),
    "correlation.rebuild": (lambda x: correlation.rebuild(x, num_neighbors=NEIGHBORS), (X,)),
    "correlation.score_covariance": (correlation.score_covariance, (X, X)),
    "correlation.in_scores": (lambda x: correlation.in_scores(x, jnp.eye(x.shape[1])), (X,)),
    "correlation.moving_average": (
        lambda old, new: correlation.moving_average(old, new, momentum=0.5, first=jnp.asarray(False)),
        (X, Y),
    ),
    "losses.normalise_rows": (losses.normalise_rows, (X,)),
    "losses.bpr_loss": (losses.bpr_loss, (X[:, 0], Y)),
    "losses.sampled_softmax_loss": (
        lambda u, p, n: losses.sampled_softmax_loss(u, p, n, excluded=jnp.asarray(~EVERY), temperature=0.2, focus=1.0),
        (X, Y, rows(4, NODES, WIDTH)),
    ),
    "losses.info_nce_loss": (
        lambda a, b: losses.info_nce_loss(a, b, mask=jnp.asarray(EVERY[0]), temperature=0.2),
        (X, Y),
    ),
    "losses.translation_loss": (losses.translation_loss, (X, Y, rows(5, NODES, WIDTH), rows(6, NODES, WIDTH))),
    "losses.l2_loss": (losses.l2_loss, (X, Y)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_public_function_works_under_jit_grad_vmap_and_a_mesh(name: str):
    function, args = CASES[name]

    def squares(*args: jax.Array) -> jax.Array:
        leaves = jax.tree.leaves(function(*args))
        return sum(jnp.sum(x * x) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)) + jnp.float32(0)

    both = jax.value_and_grad(squares, argnums=tuple(range(len(args))))
    other = tuple(arg[::-1] for arg in args)
    pairs = jax.tree.map(lambda *parts: jnp.stack(parts), args, other)
    one = jax.jit(both)
    want = jax.tree.map(lambda *parts: jnp.stack(parts), one(*args), one(*other))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(want))
    assert float(want[0][0]) > 0
    np.testing.assert_allclose(squares(*args), want[0][0], rtol=1e-5)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    def on_each(*blocks: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[None], both(*(block[0] for block in blocks)))

    for mapped in (jax.vmap(both), on_each):
        got = jax.jit(mapped)(*pairs)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5), got, want)


def test_orders_are_drawn_under_jit_and_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    draw = functools.partial(sampling.shuffled, positions=jnp.arange(5), num_examples=5)
    together = jax.jit(jax.vmap(draw))(keys)
    np.testing.assert_array_equal(together, jnp.stack([draw(key) for key in keys]))


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{citation["version"]}"\n' in project
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert [name["family-names"] for name in paper["authors"]] == ["Guo", "Jiang", "Guo", "Song", "Sun"]
    assert "2507.09998" in paper["url"]


def test_the_reference_is_built_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-W", "error::UserWarning", "-m", "pdoc", "--docformat", "google"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path), "slif_jax"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
    pages = {path.stem for path in (tmp_path / "slif_jax").glob("*.html")}
    assert pages == set(slif_jax.__all__)
    assert "rebuild" in (tmp_path / "slif_jax" / "correlation.html").read_text()

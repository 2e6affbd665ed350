"""The examples run as they stand, and what they print is what they promise."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def plain_jax() -> Iterator[None]:
    """The settings of a user's program, not the strict ones of the tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(name: str) -> Any:
    """What the example's `main` returns."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def test_every_example_is_in_the_table_and_is_run_by_a_test():
    names = sorted(path.name for path in FOLDER.glob("*.py"))
    assert names == ["evaluate_your_scores.py", "rebuild_in_your_loop.py", "score_export.py", "spmm_in_flax.py"]
    table = (FOLDER / "README.md").read_text()
    assert [name for name in names if f"]({name})" not in table] == []
    assert "score_export.py" in (Path(__file__).parent / "test_export.py").read_text()


def test_the_rebuild_in_a_loop_learns_and_the_graph_settles(capsys: pytest.CaptureFixture[str]):
    rows = run("rebuild_in_your_loop")
    losses, kept = zip(*rows, strict=True)
    assert losses[-1] < 0.5 * losses[0]
    assert kept[0] == 0  # the first graph was empty
    assert kept[-1] > max(kept[1], 0.6)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_the_flax_gnn_tells_the_groups():
    assert run("spmm_in_flax") > 0.8  # 1 in 4 by chance


def test_scores_of_others_are_measured_by_each_protocol(capsys: pytest.CaptureFixture[str]):
    means = run("evaluate_your_scores")
    for protocol in ("strict", "mmrec", "recbole", "kgat"):
        assert means[f"item cosine, {protocol}"]["recall@20"] > means[f"popularity, {protocol}"]["recall@20"] > 0
    assert means["popularity, mmrec"]["recall@20"] < means["popularity, strict"]["recall@20"]  # valid is not masked
    assert means["popularity, kgat"]["ndcg@20"] > means["popularity, mmrec"]["ndcg@20"]  # another ideal
    assert capsys.readouterr().out.count("users  recall@20") == 3

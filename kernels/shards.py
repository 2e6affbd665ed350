"""Inside shard_map, gives all arrays of a call the same set of varying mesh axes."""

from __future__ import annotations

from typing import Any

import jax


def match_shards(*trees: Any) -> Any:
    """Marks every array as varying over the mesh axes over which any of them varies.

    A rule written by hand for a derivative must return cotangents that vary as the inputs do. With equal inputs it
    does, and JAX itself sums over the axes along which an array did not vary. Outside shard_map nothing happens.

    Args:
      *trees: trees of arrays.

    Returns:
      The same trees, as a tuple.
    """
    leaves = jax.tree.leaves(trees)
    axes = frozenset().union(*(_axes(leaf) for leaf in leaves))
    if not axes:
        return trees

    def match(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(match, trees)


def _axes(leaf: Any) -> frozenset:
    return getattr(jax.typeof(leaf), "vma", frozenset())

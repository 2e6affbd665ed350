"""What the operations need in order to run inside shard_map."""

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
    axes = frozenset().union(*(varying_axes(leaf) for leaf in leaves))
    if not axes:
        return trees

    def match(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(match, trees)


def varying_axes(leaf: Any) -> frozenset[str]:
    """The mesh axes over which an array is known to vary; none outside of shard_map, nor under pmap."""
    kind = jax.typeof(leaf)
    varying = getattr(kind, "vma", None)  # its name in older releases
    if varying is None:
        varying = getattr(getattr(kind, "manual_axis_type", None), "varying", frozenset())
    return frozenset(varying)


def result(shape: tuple[int, ...], dtype: Any, *like: Any) -> jax.ShapeDtypeStruct:
    """Describes a result that varies over the mesh axes over which the arrays of `like` vary."""
    axes = frozenset().union(*(varying_axes(leaf) for leaf in like))
    if not axes:
        return jax.ShapeDtypeStruct(shape, dtype)
    if hasattr(jax.sharding, "ManualAxisType"):
        spec = jax.sharding.PartitionSpec(*[None] * len(shape))
        kind: dict[str, Any] = {
            "manual_axis_type": jax.sharding.ManualAxisType(varying=axes),
            "sharding": jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), spec),
        }
    else:
        kind = {"vma": axes}
    return jax.ShapeDtypeStruct(shape, dtype, **kind)

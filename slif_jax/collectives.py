"""Tables whose rows several devices share: how a device comes by the rows of the others.

Everything here runs inside `jax.shard_map` (or `jax.pmap`) over a mesh axis, or over several taken together. With
`axis=None` there is one device, and each function is what it would be without devices: no other code asks which.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Shaped

from slif_jax.kernels.shards import match_shards, varying_axes

Axis = str | tuple[str, ...] | None


def num_shards(axis: Axis) -> int:
    """Devices that share the rows."""
    return 1 if axis is None else jax.lax.axis_size(axis)


def shard_index(axis: Axis) -> Int[Array, ""] | int:
    """Which of them this device is, from 0."""
    return 0 if axis is None else jax.lax.axis_index(axis)


def gather_rows(x: Shaped[Array, "r ..."], axis: Axis) -> Shaped[Array, "n ..."]:
    """The whole table on every device; its derivative is a reduce-scatter.

    Args:
      x: `[R, ...]`, this device's rows.
      axis: mesh axis, or None.

    Returns:
      `[devices * R, ...]`, the rows of the first device first.
    """
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def by_columns(
    function: Callable[[Float[Array, "r c"]], Float[Array, "n c"]], x: Float[Array, "r d"], axis: Axis, blocks: int
) -> Float[Array, "n d"]:
    """Applies a function that works column by column, to some columns after the other: less is gathered at a time.

    Args:
      function: gathers rows, and gives arrays of rows. What is linear in the columns keeps nothing for the way back;
        of the rest the way back computes what it needs again, exchanges included.
      x: `[R, D]`, this device's rows.
      axis: mesh axis, or None, where there is nothing to gather and all columns are taken at once.
      blocks: D / `blocks` columns are taken at a time.

    Returns:
      As `function(x)`.

    Raises:
      ValueError: if `blocks` is below 1, or D is not a multiple of it.
    """
    if blocks < 1 or x.shape[1] % blocks:
        raise ValueError(f"{x.shape[1]} columns cannot be cut into {blocks} equal blocks.")
    if axis is None or blocks == 1:
        return function(x)
    parts = jax.lax.map(jax.checkpoint(function), jnp.stack(jnp.split(x, blocks, axis=1)))
    return jnp.concatenate(list(parts), axis=1)


def take_rows(x: Float[Array, "r ..."], ids: Int[Array, " b"], axis: Axis) -> Float[Array, "c ..."]:
    """This device's share of the rows `ids`, wherever they are; no device sees the whole table.

    Every device looks up what it holds of all B rows, and a reduce-scatter gives each its part; the derivative is an
    all-gather of the B rows' gradients.

    Args:
      x: `[R, ...]`, this device's rows.
      ids: `[B]` rows of the whole table, the same on every device; B is a multiple of the devices.
      axis: mesh axis, or None.

    Returns:
      `[B / devices, ...]`: as `own_share(whole[ids])`.
    """
    if axis is None:
        return x[ids]
    return jax.lax.psum_scatter(_held(x, ids, axis), axis, tiled=True)


def take_rows_everywhere(x: Shaped[Array, "r ..."], ids: Int[Array, " b"], axis: Axis) -> Shaped[Array, "b ..."]:
    """The rows `ids`, all of them on every device, to the last bit: the others add zeros to what one device has.

    Args:
      x: `[R, ...]`, this device's rows.
      ids: `[B]` rows of the whole table, the same on every device.
      axis: mesh axis, or None.

    Returns:
      `[B, ...]`.
    """
    return x[ids] if axis is None else jax.lax.psum(_held(x, ids, axis), axis)


def own_share(x: Shaped[Array, "b ..."], axis: Axis) -> Shaped[Array, "c ..."]:
    """This device's part of an array that all devices have.

    Args:
      x: `[B, ...]`, the same on every device; B is a multiple of the devices.
      axis: mesh axis, or None.

    Returns:
      `[B / devices, ...]`, contiguous rows.
    """
    if axis is None:
        return x
    rows = x.shape[0] // num_shards(axis)
    return jax.lax.dynamic_slice_in_dim(x, shard_index(axis) * rows, rows)


def as_varying(tree: Any, axis: Axis) -> Any:
    """Arrays that all devices have, from here on each device's own: their gradients are summed here, once."""
    return tree if axis is None else match_shards(tree, jax.lax.axis_index(axis))[0]


def total(x: Array, axis: Axis) -> Array:
    """The sum over the devices of arrays of one shape, on every device."""
    return x if axis is None else jax.lax.psum(x, axis)


def tree_norms(trees: Sequence[Any], is_shared: Any, axis: Axis) -> list[Float[Array, ""]]:
    """Euclidean norms of whole trees of parameters, with one exchange for all of them.

    Args:
      trees: this device's arrays; each of the same structure.
      is_shared: of that structure, whether the devices share the rows of an array; else all have it.
      axis: mesh axis, or None.

    Returns:
      A norm for each tree, the same on every device.
    """

    def squares(tree: Any, shared: bool) -> Array:
        chosen = jax.tree.map(lambda x, s: jnp.sum(jnp.square(x)) if s == shared else None, tree, is_shared)
        return sum(jax.tree.leaves(chosen), jnp.zeros(()))

    sums = total(jnp.stack([squares(tree, True) for tree in trees]), axis)
    return list(jnp.sqrt(sums + jnp.stack([squares(tree, False) for tree in trees])))


def complete_gradients(grads: Any, is_shared: Any, axis: Axis) -> Any:
    """The gradients of a loss that was summed over the devices, whoever mapped the function.

    Under `jax.shard_map` the types tell which parameters all devices have, and JAX sums their gradients. Under
    `jax.pmap` they do not: there each device has the gradient of what it did, times the number of devices.

    Args:
      grads: as `jax.grad` gives them on this device.
      is_shared: of the same structure, whether the devices share the rows of a parameter; else all have it.
      axis: mesh axis, or None.

    Returns:
      The gradients of the whole loss.
    """
    if axis is None or varying_axes(jax.lax.axis_index(axis)):
        return grads
    return jax.tree.map(
        lambda grad, shared: grad / num_shards(axis) if shared else jax.lax.pmean(grad, axis), grads, is_shared
    )


def _held(x: Array, ids: Array, axis: Axis) -> Array:
    """The rows `ids` as far as this device has them, zeros for the rest."""
    rows = x.shape[0]
    local = ids - shard_index(axis) * rows
    held = (local >= 0) & (local < rows)
    found = x[jnp.clip(local, 0, rows - 1)]
    return jnp.where(held.reshape(-1, *(1,) * (x.ndim - 1)), found, jnp.zeros((), x.dtype))

"""spmm on a TPU for graphs with slots: rows are fetched one by one from main memory while others are summed.

Checked by interpretation on the CPU and by lowering for TPUs; it has not been timed on one.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int32

from slif_jax.kernels.layout import Structure
from slif_jax.kernels.shards import result

_ROWS = 8  # rows of a program
_LANES = 128
_IDS = 16384  # ids held in scalar memory at once


def has_fixed_degree(structure: Structure) -> bool:
    """Whether the graph's slots are one block with a row per receiver and no free slot."""
    blocks = structure.ell
    return (
        blocks is not None
        and len(blocks) == 1
        and blocks[0].rows.shape[0] == structure.num_receivers
        and blocks[0].edges.size == structure.num_edges
    )


def spmm(structure: Structure, weight: Float[Array, " E"], x: Float[Array, "N D"]) -> Float[Array, "M D"]:
    """As the reference, for a structure with slots."""
    columns = x.shape[1]
    # Free slots read the row of zeros at the end. One row of float32 is the least that can be fetched alone.
    table = jnp.pad(x.astype(jnp.float32), ((0, 1), (0, -columns % _LANES)))
    y = jnp.zeros((structure.num_receivers, table.shape[1]), jnp.float32)
    for block in structure.ell or ():
        values = weight.at[block.edges].get(mode="fill", fill_value=0)
        y = y.at[block.rows].add(_sum_slots(jnp.asarray(block.senders), values, table))
    return y[:, :columns].astype(x.dtype)


def _sum_slots(ids: Int32[Array, "B K"], values: Float[Array, "B K"], table: Float[Array, "N D"]) -> Array:
    rows, slots = ids.shape
    chunk = max(_ROWS, _IDS // slots // _ROWS * _ROWS)
    chunk = min(chunk, -(-rows // _ROWS) * _ROWS)
    extra = -rows % chunk
    ids = jnp.pad(ids, ((0, extra), (0, 0)), constant_values=table.shape[0] - 1).reshape(-1, chunk, slots)
    values = jnp.pad(values, ((0, extra), (0, 0))).reshape(-1, chunk, slots)
    compiled, interpreted = (functools.partial(_chunk, interpret=interpret) for interpret in (False, True))

    def one(part: tuple[Array, Array]) -> Array:
        if jax.default_backend() != "cpu":
            return compiled(*part, table)
        return jax.lax.platform_dependent(*part, table, cpu=interpreted, default=compiled)

    total = jax.lax.map(one, (ids, values))
    return total.reshape(rows + extra, -1)[:rows]


def _chunk(ids: Array, values: Array, table: Array, *, interpret: bool) -> Array:
    rows, slots = ids.shape
    columns = table.shape[1]

    def body(ids_ref, values_ref, table_ref, out_ref, buffer, semaphores):
        first = pl.program_id(0) * _ROWS

        def copy(row, side, slot):
            return pltpu.make_async_copy(
                table_ref.at[pl.ds(ids_ref[first + row, slot], 1), :],
                buffer.at[side, pl.ds(slot, 1), :],
                semaphores.at[side],
            )

        def each_slot(action, row, side):
            def one(slot, carry):
                action(copy(row, side, slot))
                return carry

            jax.lax.fori_loop(jnp.int32(0), jnp.int32(slots), one, 0)

        def start(row, side):
            each_slot(lambda copy: copy.start(), row, side)

        start(jnp.int32(0), jnp.int32(0))

        def one_row(row, carry):
            side = jax.lax.rem(row, jnp.int32(2))

            @pl.when(row + 1 < _ROWS)
            def _():
                start(row + 1, 1 - side)

            each_slot(lambda copy: copy.wait(), row, side)
            out_ref[pl.ds(row, 1), :] = jnp.dot(
                values_ref[pl.ds(row, 1), :],
                buffer[side],
                precision=jax.lax.Precision.HIGHEST,
                preferred_element_type=jnp.float32,
            )
            return carry

        jax.lax.fori_loop(jnp.int32(0), jnp.int32(_ROWS), one_row, 0)

    return pl.pallas_call(
        body,
        out_shape=result((rows, columns), jnp.float32, ids, values, table),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(rows // _ROWS,),
            in_specs=[
                pl.BlockSpec((_ROWS, slots), lambda i, _: (i, 0)),
                pl.BlockSpec(memory_space=pl.ANY),
            ],
            out_specs=pl.BlockSpec((_ROWS, columns), lambda i, _: (i, 0)),
            scratch_shapes=[pltpu.VMEM((2, slots, columns), jnp.float32), pltpu.SemaphoreType.DMA((2,))],
        ),
        interpret=interpret,
    )(ids, values, table)

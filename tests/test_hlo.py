"""Exchanges between devices, read from compiled programs."""

from slif_jax.hlo import Collective, read_collectives


def test_bytes_of_a_ring():
    gather = Collective("all-gather", ((8, 4),), 128, True)
    assert gather.sent_bytes(8) == 112
    assert gather._replace(kind="all-reduce").sent_bytes(8) == 224
    assert gather._replace(kind="reduce-scatter").sent_bytes(8) == 896
    assert gather._replace(kind="collective-permute").sent_bytes(8) == 128


def test_a_start_of_an_exchange_counts_what_comes_out_of_it():
    text = """
%body (p: f32[4]) -> f32[32] {
  %s = (bf16[4,8]{1,0}, bf16[32,8]{1,0}) all-gather-start(%p), replica_groups={{0,1}}
  %r = f32[16]{0} all-reduce-start(%p), to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = f32[4] while(%p), condition=%cond, body=%body
  %g = s32[8]{0} all-gather(%p)
}
"""
    gather, reduce, outside = read_collectives(text)
    assert gather == Collective("all-gather", ((32, 8),), 512, True, ("bf16",))
    assert reduce == Collective("all-reduce", ((16,),), 64, True, ("f32",))
    assert outside == Collective("all-gather", ((8,),), 32, False, ("s32",))

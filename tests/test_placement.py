"""Dealing rows out to devices: nobody is lost, and nobody has much more than the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slif_jax.data.synthetic import synthetic
from slif_jax.placement import deal_out, place, places, side_by_side


def test_worked_by_hand():
    dealt = deal_out(np.array([1, 9, 5, 7, 0]), 2)
    # By falling edges: 1, 3, 2, 0, 4, dealt 0 1 1 0 0: device 0 has nodes 0, 1, 4, device 1 has 2, 3.
    np.testing.assert_array_equal(dealt.owner, [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(dealt.rows, [0, 1, 3, 4, 2])
    np.testing.assert_array_equal(dealt.ids, [0, 1, 4, 2, 3, -1])
    np.testing.assert_array_equal(dealt.part(np.array([10, 11, 12, 13, 14]), 1, fill=-5), [12, 13, -5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9))
def test_each_node_has_one_row_and_devices_are_balanced(edges: list[int], num_shards: int):
    counts = np.array(edges, np.int64)
    dealt = deal_out(counts, num_shards)
    assert len(set(dealt.rows.tolist())) == len(edges)
    values = np.arange(len(edges)) + 1
    parts = np.concatenate([dealt.part(values, k) for k in range(num_shards)])
    np.testing.assert_array_equal(dealt.collect(parts), values)
    load = np.bincount(dealt.owner, counts, minlength=num_shards)
    assert np.ptp(np.bincount(dealt.owner, minlength=num_shards)) <= 1
    assert np.ptp(load) <= counts.max(initial=0)


def test_two_tables_side_by_side():
    users, items = deal_out(np.array([3, 1, 2]), 2), deal_out(np.array([1, 1]), 2)
    nodes = side_by_side(users, items)
    assert nodes.rows_each == users.rows_each + items.rows_each
    np.testing.assert_array_equal(nodes.owner, np.concatenate([users.owner, items.owner]))
    for device in range(2):
        mine = nodes.ids[device * nodes.rows_each : (device + 1) * nodes.rows_each]
        own_users = users.ids[device * users.rows_each : (device + 1) * users.rows_each]
        own_items = items.ids[device * items.rows_each : (device + 1) * items.rows_each]
        expected = np.concatenate([own_users, np.where(own_items >= 0, own_items + 3, -1)])
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("num_shards", [1, 2, 8])
def test_a_power_law_is_balanced_by_edges(num_shards: int):
    dataset = synthetic(num_users=400, num_items=300, seed=1)
    at = place(dataset, num_shards)
    interactions = np.bincount(at.items.owner[dataset.train[:, 1]], minlength=num_shards)
    assert interactions.max() <= 1.15 * interactions.mean()
    rows = places(at)
    np.testing.assert_array_equal(rows.entities[: dataset.num_items], at.entities.rows[: dataset.num_items])
    assert rows.entities.shape == (dataset.num_entities,)

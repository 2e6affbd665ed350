"""The arrays of a training on a mesh: every device has its rows of the tables, and the edges that end at them.

Here they are cut up and put together again, on the host. What devices do with them is written in `slif_jax.train_step`
and `slif_jax.model`; `slif_jax.engine` maps it over the mesh.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from slif_jax.cold_items import ColdItems
from slif_jax.evaluate import RankingTask, TaskArrays
from slif_jax.graphs import Graphs, edge_weights, item_features
from slif_jax.kernels.layout import build_graph, edges_of, fixed_degree_graph, layout_of, pad_edges
from slif_jax.linear import LinearScores
from slif_jax.meshes import OnMesh, host_rows
from slif_jax.placement import Placement, Placements
from slif_jax.train_state import TABLES, TrainState, table_of
from slif_jax.train_step import TrainingData


class Sharder(OnMesh):
    """Puts what a training works on on a mesh, and gets it back, as placements say."""

    def __init__(self, mesh: Mesh, placements: Placements) -> None:
        super().__init__(mesh)
        self.placements = placements
        self._of_table: dict[str, Placement] = dict(
            zip(TABLES, (placements.users, placements.items, placements.others), strict=True)
        )

    def spread(self, values: Any, placement: Placement) -> jax.Array:
        """A table `[N, ...]` in its placement, each device with its rows."""
        host = host_rows(values)
        return self.assemble(lambda k: placement.part(host, k))

    def data(self, data: TrainingData) -> TrainingData:
        """What batches are drawn from: the interactions and the triples dealt out, the rest whole.

        The `gaps` too are whole, where there are any: exact negatives search the lists of all users of a batch.
        """

        def put(values: Any, spec: PartitionSpec) -> jax.Array:
            return self.deal(values) if spec == self.rows else self.replicate(values)

        return jax.tree.map(put, data, self.data_spec(data))

    def graphs(self, graphs: Graphs) -> Graphs:
        """The static graphs, each device with the edges that end at its rows."""
        items, at = self.placements.items, self.placements
        cold = None if graphs.cold is None else self._cold_items(graphs.cold)
        features = {}
        for name, graph in graphs.features.items():
            nodes = jax.tree.map(lambda x: self.spread(x, items), item_features(graph))
            features[name] = self.graph(graph, items, items)._replace(nodes=nodes)
        return Graphs(
            interactions=self.graph(graphs.interactions, at.nodes, at.nodes),
            user_items=self.graph(graphs.user_items, at.users, items),
            knowledge=None if graphs.knowledge is None else self.graph(graphs.knowledge, at.entities, at.entities),
            features=features,
            cold=cold,
            warm=self.spread(graphs.warm, items),
            linear={
                name: LinearScores(self.spread(model.users, at.users), self.spread(model.items, items))
                for name, model in graphs.linear.items()
            },
        )

    def graph(self, graph: jraph.GraphsTuple, receivers: Placement, senders: Placement) -> jraph.GraphsTuple:
        """A graph without nodes; receivers count a device's rows, senders those of all devices."""
        edges, num_edges = edges_of(graph), int(np.asarray(layout_of(graph).indptr)[-1])
        from_rows = senders.rows[np.asarray(graph.senders)[:num_edges]]
        to_rows = receivers.rows[np.asarray(graph.receivers)[:num_edges]]
        owner = to_rows // receivers.rows_each
        slots = int(np.bincount(owner, minlength=receivers.num_shards).max(initial=0))
        weight, relation = (None if x is None else np.asarray(x)[:num_edges] for x in edges)

        def part(k: int) -> jraph.GraphsTuple:
            mine = owner == k
            built = build_graph(
                from_rows[mine],
                to_rows[mine] % receivers.rows_each,
                None if weight is None else weight[mine],
                None if relation is None else relation[mine],
                num_senders=senders.total,
                num_receivers=receivers.rows_each,
                ell=False,
            )
            return pad_edges(built, slots)

        return self.assemble(part)

    def _cold_items(self, cold: ColdItems) -> ColdItems:
        items = self.placements.items
        rows = items.rows[np.asarray(cold.items)]
        neighbors, weights = items.rows[np.asarray(cold.neighbors)], np.asarray(cold.weights)
        owner = rows // items.rows_each
        slots = int(np.bincount(owner, minlength=items.num_shards).max(initial=0))

        def part(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            mine = np.flatnonzero(owner == k)
            mine = mine[np.argsort(rows[mine])]
            free = slots - len(mine)
            # Places beyond the last row: distinct and ascending, and what is written there is dropped.
            beyond = items.rows_each + np.arange(free, dtype=np.int32)
            return (
                np.concatenate([rows[mine] % items.rows_each, beyond]),
                np.pad(neighbors[mine], ((0, free), (0, 0))),
                np.pad(weights[mine], ((0, free), (0, 0))),
            )

        return ColdItems(*self.assemble(part), num_others=self.replicate(cold.num_others))

    def state(self, state: TrainState) -> TrainState:
        """A state as one device has it, spread over the mesh."""
        items = self.placements.items
        correlation, k = state.correlation, state.correlation.senders.shape[0] // len(items.rows)
        weights = np.asarray(edge_weights(correlation)).reshape(-1, k)
        neighbors = np.where(weights > 0, items.rows[np.asarray(correlation.senders)].reshape(-1, k), -1)

        def part(k: int) -> jraph.GraphsTuple:
            own_neighbors, own_weights = items.part(neighbors, k, fill=-1), items.part(weights, k)
            return fixed_degree_graph(jnp.asarray(own_neighbors), jnp.asarray(own_weights), items.total)

        def put(path: Any, leaf: Any) -> Any:
            table = self._table(path)
            return self.replicate(leaf) if table is None else self.spread(leaf, table)

        rest = jax.tree.map_with_path(put, state.replace(correlation=None, item_vectors=None))
        return rest.replace(correlation=self.assemble(part), item_vectors=self.spread(state.item_vectors, items))

    def state_on_host(self, state: TrainState) -> TrainState:
        """Undoes `state`."""
        items = self.placements.items
        k = state.correlation.senders.shape[0] // items.total
        senders, weights = (
            items.collect(self.on_host(x).reshape(-1, k))
            for x in (state.correlation.senders, edge_weights(state.correlation))
        )
        neighbors = np.where(weights > 0, items.ids[senders], -1)
        correlation = fixed_degree_graph(jnp.asarray(neighbors), jnp.asarray(weights), len(items.rows))

        def get(path: Any, leaf: Any) -> Any:
            table = self._table(path)
            if table is not None:
                return table.collect(self.on_host(leaf))
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                bits = jnp.asarray(self.on_host(jax.random.key_data(leaf)))
                return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
            return self.on_host(leaf)

        rest = jax.tree.map_with_path(get, state.replace(correlation=None, item_vectors=None))
        return rest.replace(correlation=correlation, item_vectors=items.collect(self.on_host(state.item_vectors)))

    def state_spec(self, state: TrainState) -> TrainState:
        """How the axes of a state's arrays are shared, for `jax.shard_map`."""
        rest = jax.tree.map_with_path(
            lambda path, _: PartitionSpec() if self._table(path) is None else self.rows,
            state.replace(correlation=None, item_vectors=None),
        )
        return rest.replace(correlation=self.rows, item_vectors=self.rows)

    def graphs_spec(self, graphs: Graphs) -> Graphs:
        """The same for static graphs: everything but single numbers is shared by rows."""
        return jax.tree.map(lambda x: self.rows if x.ndim else PartitionSpec(), graphs)

    def data_spec(self, data: TrainingData) -> TrainingData:
        """The same for what batches are drawn from."""
        whole = jax.tree.map(lambda _: PartitionSpec(), data)
        weights = None if data.interactions.weights is None else self.rows
        dealt = whole.interactions._replace(users=self.rows, items=self.rows, weights=weights)
        return whole.replace(interactions=dealt, triples=self.rows)

    def for_pmap(self, tree: Any, spec: Any) -> tuple[Any, Any]:
        """Arrays as `jax.pmap` takes them.

        Args:
          tree: arrays on the mesh, such as a state.
          spec: of `state_spec`, `graphs_spec` or `data_spec`; one for all arrays, or one for each.

        Returns:
          The arrays, those that are shared by rows with an axis of devices in front; and `in_axes` for them.
        """
        specs = jax.tree.broadcast(spec, tree, is_leaf=lambda x: isinstance(x, PartitionSpec))
        in_axes = jax.tree.map(lambda x, s: 0 if s == self.rows else None, tree, specs)

        def stack(x: Any, s: PartitionSpec) -> Any:
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(
                    jnp.asarray(self.on_host(jax.random.key_data(x))), impl=jax.random.key_impl(x)
                )
            host = jnp.asarray(self.on_host(x))
            return host.reshape(self.mesh.size, -1, *x.shape[1:]) if s == self.rows else host

        return jax.tree.map(stack, tree, specs), in_axes

    def task(self, task: RankingTask) -> tuple[TaskArrays, np.ndarray]:
        """A ranking task, each device with its users.

        Args:
          task: from `ranking_task`.

        Returns:
          Its arrays, but for `candidates` and `is_cold` shared by rows, and `[n]` where the row of each of `task.users`
          stands in what the devices give, laid end to end.
        """
        users, arrays = self.placements.users, jax.tree.map(np.asarray, task.arrays)
        owner = users.owner[task.users]
        counts = np.bincount(owner, minlength=users.num_shards)
        rows_each = max(1, -(-int(counts.max(initial=0)) // task.block)) * task.block
        bounds = {name: getattr(arrays, f"{name}_indptr") for name in ("seen", "relevant")}
        slots = {
            name: int(np.bincount(owner, np.diff(at)[: len(owner)], minlength=users.num_shards).max(initial=0))
            for name, at in bounds.items()
        }

        def part(k: int) -> tuple[np.ndarray, ...]:
            mine = np.flatnonzero(owner == k)
            free = rows_each - len(mine)
            local = np.pad(users.rows[task.users[mine]] % users.rows_each, (0, free))
            lists: list[np.ndarray] = []
            for name, at in bounds.items():
                lengths = np.diff(at)[mine]
                indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
                chosen = np.arange(indptr[-1]) + np.repeat(at[mine] - indptr[:-1], lengths)
                values = getattr(arrays, name)[chosen]
                lists += [np.pad(indptr, (0, free), mode="edge"), np.pad(values, (0, slots[name] - len(values)))]
            return (local.astype(np.int32), *lists)

        place = np.empty(len(owner), np.int64)
        by_owner = np.argsort(owner, kind="stable")
        starts = np.cumsum(counts) - counts
        place[by_owner] = owner[by_owner] * rows_each + np.arange(len(owner)) - starts[owner[by_owner]]
        whole = self.replicate((task.arrays.candidates, task.arrays.is_cold))
        return TaskArrays(*self.assemble(part), *whole), place

    def _table(self, path: Any) -> Placement | None:
        name = table_of(path)
        return None if name is None else self._of_table[name]

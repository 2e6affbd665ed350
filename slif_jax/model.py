"""The SLIF-MR encoder: collaborative, modality and knowledge views of users and items, and their fusion."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from slif_jax import ops
from slif_jax.cold_items import inherit
from slif_jax.collectives import Axis, by_columns, gather_rows
from slif_jax.config import CONTENT, Config
from slif_jax.data import Dataset
from slif_jax.graphs import Graphs, item_features, used_modalities, uses_knowledge
from slif_jax.linear import beside
from slif_jax.losses import inverse_lengths
from slif_jax.propagate import KnowledgeWeights, attend_knowledge, knowledge_weights, propagate, propagate_features

Params = dict[str, Any]


class Views(NamedTuple):
    """The vectors of n users, or of n items, before they are fused."""

    collaborative: Float[Array, "n d"]
    sides: dict[str, Float[Array, "n d"]]
    """By modality name, and 'knowledge'."""

    def take(self, ids: Int[Array, " b"]) -> "Views":
        """The rows `ids` of every view."""
        return jax.tree.map(lambda x: x[ids], self)


class Vectors(NamedTuple):
    """Vectors of users and items. The score of user u for item i is `users[u] @ items[i]`."""

    users: Float[Array, "users d"]
    items: Float[Array, "items d"]


class Encoded(NamedTuple):
    """All that the encoder knows of users and items."""

    final: Vectors
    users: Views
    items: Views
    user_weights: Float[Array, "users views"]
    """Attention of each user over the views: columns for the modalities, then 'knowledge'. (jit sorts `sides`.)"""
    item_weights: Float[Array, "items views"]
    item_scale: Float[Array, " items"]
    """What the fused vector of each item is multiplied by to give the final one."""
    ranked: Vectors
    """What scores are inner products of: `final`, and the linear models beside it, where there are any."""


class _Linear(NamedTuple):
    kernel: Float[Array, "inputs d"]
    bias: Float[Array, " d"]


class _Affine(nn.Module):
    """The parameters of a dense layer, for a caller that joins them with others before they meet the data."""

    width: int

    @nn.compact
    def __call__(self, num_inputs: int) -> _Linear:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (num_inputs, self.width))
        return _Linear(kernel, self.param("bias", nn.initializers.zeros, (self.width,)))


class SlifMr(nn.Module):
    """Parameters and forward pass of SLIF-MR.

    With no modality and no knowledge graph the final vectors are the collaborative ones: LightGCN. With `axis`, for use
    inside `jax.shard_map`, the numbers of users, items and entities are those whose rows a device holds.
    """

    num_users: int
    num_items: int
    num_entities: int
    num_relations: int
    modalities: tuple[str, ...]
    knowledge: bool
    config: Config
    axis: Axis = None
    """Mesh axis over which the rows of users, items and entities are shared."""

    def setup(self) -> None:
        config, width = self.config, self.config.width
        table = nn.initializers.xavier_uniform()
        self.user_embedding = self.param("user_embedding", table, (self.num_users, width))
        self.item_embedding = self.param("item_embedding", table, (self.num_items, width))
        self.projections = {name: _Affine(width, name=f"project_{name}") for name in self.modalities}
        self.purifiers = {name: _Affine(width, name=f"purify_{name}") for name in self.modalities}
        if config.missing_features == "learned":
            zeros = nn.initializers.zeros
            self.missing = {name: self.param(f"missing_{name}", zeros, (1, width)) for name in self.modalities}
        if config.correlates("features") and config.learn_feature_correlation:
            self.feature_correlation = {
                name: self.param(f"feature_correlation_{name}", _logit_of(config.feature_correlation), ())
                for name in self.modalities
            }
        if self.knowledge:
            self.entity_embedding = self.param("entity_embedding", table, (self.num_entities - self.num_items, width))
            self.relation_vectors = self.param("relation_vectors", _around_one, (2 * self.num_relations, width))
            self.translations = self.param("translations", table, (self.num_relations, width))
            self.queries = [_dense(width, f"query_{hop}", bias=False) for hop in range(config.knowledge_layers)]
            if config.correlates("knowledge"):
                self.correlation_relation = self.param("correlation_relation", _around_one, (1, width))
        if self.linear_names:  # no loss knows of them: training leaves them alone
            given = [config.linear_weights()[name] for name in self.linear_names]
            self.linear_weights = self.param("linear_weights", lambda _: jnp.array(given, jnp.float32))
        if self.modalities or self.knowledge:
            self.fusion_hidden = _dense(width, "fusion_hidden")
            self.fusion_vector = self.param("fusion_vector", table, (1, width))
            self.gates = {name: _dense(width, f"gate_{name}") for name in self.side_names}

    @property
    def side_names(self) -> tuple[str, ...]:
        """The views beside the collaborative one, in the order of the columns of the fusion's weights."""
        return (*self.modalities, *(("knowledge",) if self.knowledge else ()))

    @property
    def linear_names(self) -> tuple[str, ...]:
        """The linear models beside the vectors, in the order of their weights among the parameters."""
        return tuple(sorted(name for name in self.config.linear_weights() if name != CONTENT or self.modalities))

    def __call__(self, graphs: Graphs, correlation: jraph.GraphsTuple) -> Encoded:
        users, items = self._views(graphs, correlation)
        final_users, user_weights = self._fuse(users)
        fused, item_weights = self._fuse(items)
        scale = self._item_scale(fused, graphs)
        final = Vectors(final_users, fused * scale[:, None])
        weights = dict(zip(self.linear_names, self.linear_weights, strict=True)) if self.linear_names else {}
        ranked = Vectors(*beside(*final, graphs.linear, weights))
        return Encoded(final, users, items, user_weights, item_weights, scale, ranked)

    def _item_scale(self, fused: Array, graphs: Graphs) -> Array:
        """Unit length for a loss by cosine; a cold item has its own length, and none where nothing is known of it."""
        length = graphs.warm.astype(fused.dtype)
        if graphs.cold is not None:
            length = length.at[graphs.cold.items].set(self.config.cold_item_length)
        return length * inverse_lengths(fused) if self.config.loss == "softmax" else length

    def _views(self, graphs: Graphs, correlation: jraph.GraphsTuple) -> tuple[Views, Views]:
        embedding = inherit(self.item_embedding, graphs.cold, self.axis)
        users, items = self._collaborative(embedding, graphs, correlation)
        item_sides = {name: self._modality(name, embedding, graphs, correlation) for name in self.modalities}
        if self.knowledge:
            item_sides["knowledge"] = self._knowledge(embedding, graphs, correlation)
        if not item_sides:
            return Views(users, {}), Views(items, {})

        def to_users(x: Array) -> Array:
            return ops.spmm(graphs.user_items, gather_rows(x, self.axis))

        joined = self._carried(jnp.concatenate(list(item_sides.values()), axis=1))
        joined = by_columns(to_users, joined, self.axis, self.config.gather_blocks).astype(jnp.float32)
        user_sides = dict(zip(item_sides, jnp.split(joined, len(item_sides), axis=1), strict=True))
        return Views(users, user_sides), Views(items, item_sides)

    def _collaborative(self, items: Array, graphs: Graphs, correlation: jraph.GraphsTuple) -> tuple[Array, Array]:
        config = self.config
        x = propagate(
            graphs.interactions,
            self._carried(jnp.concatenate([self.user_embedding, items])),
            num_layers=config.interaction_layers,
            correlation=correlation if config.correlates("interactions") else None,
            correlation_weight=config.interaction_correlation,
            first_receiver=self.num_users,
            axis=self.axis,
            blocks=config.gather_blocks,
        )
        return x[: self.num_users], inherit(x[self.num_users :], graphs.cold, self.axis)

    def _modality(self, name: str, items: Array, graphs: Graphs, correlation: jraph.GraphsTuple) -> Array:
        """Behaviour-guided purification, then the item graph (Yu et al., "MGCN", MM 2023, eq. (3) to (5))."""
        config, graph = self.config, graphs.features[name]
        x, present = item_features(graph)
        # Two linear maps without anything between them: joined first, so that the features are multiplied once.
        project, purify = self.projections[name](x.shape[1]), self.purifiers[name](config.width)
        bias = project.bias @ purify.kernel + purify.bias
        logits = x @ (project.kernel @ purify.kernel) + bias[None, :]
        if config.missing_features == "learned":
            purified = items * nn.sigmoid(jnp.where(present[:, None], logits, self.missing[name]))
        else:
            purified = jnp.where(present[:, None], items * nn.sigmoid(logits), 0.0)
        use_correlation = config.correlates("features")
        learned = use_correlation and config.learn_feature_correlation
        share = nn.sigmoid(self.feature_correlation[name]) if learned else config.feature_correlation
        return propagate_features(
            graph,
            self._carried(purified),
            num_layers=config.feature_layers,
            correlation=correlation if use_correlation else None,
            correlation_weight=share,
            axis=self.axis,
            blocks=config.gather_blocks,
        ).astype(jnp.float32)

    def _carried(self, x: Array) -> Array:
        """Vectors as they go over a graph."""
        return x.astype(jnp.bfloat16) if self.config.precision == "bf16" else x

    def _knowledge(self, items: Array, graphs: Graphs, correlation: jraph.GraphsTuple) -> Array:
        x, graph, arguments = self._knowledge_inputs(items, graphs, correlation)
        relations = self._carried(self.relation_vectors)
        if "correlation_relation" in arguments:
            arguments["correlation_relation"] = self._carried(self.correlation_relation)
        hops = []
        for query in self.queries:
            vectors, queries = self._carried(x), self._carried(query(x))
            x = attend_knowledge(graph, queries, vectors, relations, axis=self.axis, **arguments).astype(jnp.float32)
            hops.append(x[: self.num_items])
        return sum(hops[1:], hops[0]) / len(hops)

    def _knowledge_weights(self, graphs: Graphs, correlation: jraph.GraphsTuple) -> KnowledgeWeights:
        items = inherit(self.item_embedding, graphs.cold, self.axis)
        x, graph, arguments = self._knowledge_inputs(items, graphs, correlation)
        hops = []
        for query in self.queries:
            hops.append(knowledge_weights(graph, query(x), x, self.relation_vectors, **arguments))
            x = attend_knowledge(graph, query(x), x, self.relation_vectors, **arguments)
        return jax.tree.map(lambda *weights: sum(weights[1:], weights[0]) / len(weights), *hops)

    def _knowledge_inputs(
        self, items: Array, graphs: Graphs, correlation: jraph.GraphsTuple
    ) -> tuple[Array, jraph.GraphsTuple, dict[str, Any]]:
        """Entity vectors, the graph, and how the correlation graph takes part in every hop."""
        assert graphs.knowledge is not None
        x = jnp.concatenate([items, self.entity_embedding])
        arguments: dict[str, Any] = {}
        if self.config.correlates("knowledge"):
            arguments = {"correlation": correlation, "correlation_relation": self.correlation_relation}
            arguments["correlation_weight"] = self.config.knowledge_correlation
        return x, graphs.knowledge, arguments

    def _fuse(self, views: Views) -> tuple[Array, Array]:
        """Attention over the views gives a common part; gated remainders are added (MGCN, eq. (8) to (11))."""
        base, sides = views
        if not sides:
            return base, jnp.zeros((base.shape[0], 0))
        # By name: a dictionary that went through jax.tree.map comes back sorted.
        sides = {name: sides[name] for name in self.side_names}
        weights = self._view_weights(sides)
        common = sum(w[:, None] * x for w, x in zip(weights, sides.values(), strict=True))
        remainders = [nn.sigmoid(self.gates[name](base)) * (x - common) for name, x in sides.items()]
        return base + self.config.side_weight * (common + sum(remainders) / len(remainders)), weights.T

    def _view_weights(self, sides: dict[str, Array]) -> Array:
        # One array per view, not one stacked array: reductions over a short middle axis are slow on a CPU.
        logits = [jnp.sum(nn.tanh(self.fusion_hidden(x)) * self.fusion_vector, axis=1) for x in sides.values()]
        return nn.softmax(jnp.stack(logits), axis=0)

    def _contributions(self, views: Views) -> dict[str, Array]:
        """The terms of `_fuse`, sorted by view."""
        base, sides = views
        if not sides:
            return {"collaborative": base}
        gates = {name: nn.sigmoid(self.gates[name](base)) / len(sides) for name in sides}
        rest = 1.0 - sum(gates.values())
        weights = zip(sides.items(), self._view_weights(sides), strict=True)
        share = self.config.side_weight
        parts = {name: share * x * (w[:, None] * rest + gates[name]) for (name, x), w in weights}
        return {"collaborative": base} | parts

    @nn.nowrap
    def encode(self, params: Params, graphs: Graphs, correlation: jraph.GraphsTuple) -> Encoded:
        """Views and final vectors of all users and items; a pure function of its arguments.

        Args:
          params: from `init_params`.
          graphs: static graphs of `build_graphs`.
          correlation: correlation graph of this epoch, from `correlation.rebuild` or `correlation.empty`.

        Returns:
          `Encoded`.

        Reference: docs/method.md, section 4.
        """
        return self.apply({"params": params}, graphs, correlation)  # pyright: ignore[reportReturnType]

    @nn.nowrap
    def encode_views(self, params: Params, graphs: Graphs, correlation: jraph.GraphsTuple) -> tuple[Views, Views]:
        """The views of all users and of all items, not yet fused.

        Fusion works row by row, so a train step fuses only the rows of its batch: see `fuse`.

        Args:
          params: from `init_params`.
          graphs: static graphs.
          correlation: correlation graph of this epoch.

        Returns:
          `Views` of the users and of the items.

        Reference: docs/method.md, section 4.
        """
        return self.apply({"params": params}, graphs, correlation, method="_views")  # pyright: ignore[reportReturnType]

    @nn.nowrap
    def fuse(self, params: Params, views: Views) -> tuple[Float[Array, "n d"], Float[Array, "n views"]]:
        """Final vectors of the rows of `views`, users or items.

        Args:
          params: from `init_params`.
          views: n rows, such as `views.take(ids)`.

        Returns:
          `[n, D]` final vectors and `[n, V]` attention over the views.
        """
        return self.apply({"params": params}, views, method="_fuse")  # pyright: ignore[reportReturnType]

    @nn.nowrap
    def knowledge_attention(self, params: Params, graphs: Graphs, correlation: jraph.GraphsTuple) -> KnowledgeWeights:
        """The attention behind the knowledge view, for inspection: the mean of the hops, as the view is.

        Args:
          params: from `init_params`.
          graphs: static graphs, with a knowledge graph.
          correlation: correlation graph of this epoch.

        Returns:
          `KnowledgeWeights`: per edge of `graphs.knowledge` and of `correlation`.

        Raises:
          ValueError: if the model has no knowledge graph.
        """
        if not self.knowledge:
            raise ValueError("The model uses no knowledge graph: there is no attention over it.")
        method = "_knowledge_weights"
        return self.apply({"params": params}, graphs, correlation, method=method)  # pyright: ignore[reportReturnType]

    @nn.nowrap
    def contributions(self, params: Params, views: Views) -> dict[str, Float[Array, "n d"]]:
        """What each view adds to the final vectors of the rows of `views`, for inspection.

        Args:
          params: from `init_params`.
          views: n rows, users or items.

        Returns:
          By view, 'collaborative' first, `[n, D]`. Their sum is the fused vector: times `Encoded.item_scale`, the
          inner products of a user's vector with an item's contributions sum to the score.
        """
        return self.apply({"params": params}, views, method="_contributions")  # pyright: ignore[reportReturnType]

    @nn.nowrap
    def init_params(self, rng: PRNGKeyArray, graphs: Graphs, correlation: jraph.GraphsTuple) -> Params:
        """Fresh parameters.

        Args:
          rng: key.
          graphs: static graphs; only their shapes count.
          correlation: any correlation graph of the right shape.

        Returns:
          Nested dictionary of float32 arrays.
        """
        return jax.jit(lambda key: self.init(key, *jax.tree.map(jnp.zeros_like, (graphs, correlation))))(rng)["params"]


def make_model(dataset: Dataset, config: Config) -> SlifMr:
    """The model that fits `dataset` under the switches of `config`.

    Args:
      dataset: loaded data.
      config: settings.

    Returns:
      A `SlifMr` without parameters.
    """
    return SlifMr(
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        num_entities=dataset.num_entities,
        num_relations=dataset.num_relations,
        modalities=used_modalities(dataset, config),
        knowledge=uses_knowledge(dataset, config),
        config=config,
    )


def _dense(width: int, name: str, *, bias: bool = True) -> nn.Dense:
    return nn.Dense(width, use_bias=bias, kernel_init=nn.initializers.xavier_uniform(), name=name)


def _around_one(key: Array, shape: tuple[int, ...]) -> Array:
    """Relation vectors start near the identity, so that the first messages are plain neighbours."""
    return jax.random.uniform(key, shape, minval=0.9, maxval=1.1)


def _logit_of(share: float) -> Any:
    share = min(max(share, 1e-3), 1.0 - 1e-3)
    return nn.initializers.constant(math.log(share / (1.0 - share)))

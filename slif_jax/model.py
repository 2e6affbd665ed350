"""The SLIF-MR encoder: collaborative, modality and knowledge views of users and items, and their fusion."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from slif_jax import ops
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.graphs import Graphs, used_modalities, uses_knowledge
from slif_jax.propagate import attend_knowledge, propagate, propagate_features

Params = dict[str, Any]


class View(NamedTuple):
    """Vectors of the users and of the items in one space."""

    users: Float[Array, "users d"]
    items: Float[Array, "items d"]


class Encoded(NamedTuple):
    """What the encoder gives. The score of user u for item i is `final.users[u] @ final.items[i]`."""

    final: View
    collaborative: View
    views: dict[str, View]
    """By modality name, and 'knowledge'."""
    view_weights: Float[Array, "nodes views"] | None
    """Attention of each user and item over the views, columns in the order of `views`; None without views."""


class SlifMr(nn.Module):
    """Parameters and forward pass of SLIF-MR.

    With no modality and no knowledge graph the final vectors are the collaborative ones: LightGCN.
    """

    num_users: int
    num_items: int
    num_entities: int
    num_relations: int
    modalities: tuple[str, ...]
    knowledge: bool
    config: Config

    def setup(self) -> None:
        config, width = self.config, self.config.width
        table = nn.initializers.xavier_uniform()
        self.user_embedding = self.param("user_embedding", table, (self.num_users, width))
        self.item_embedding = self.param("item_embedding", table, (self.num_items, width))
        self.projections = {name: nn.Dense(width, name=f"project_{name}") for name in self.modalities}
        self.purifiers = {name: nn.Dense(width, name=f"purify_{name}") for name in self.modalities}
        if config.correlates("features") and config.learn_feature_correlation:
            self.feature_correlation = {
                name: self.param(f"feature_correlation_{name}", _logit_of(config.feature_correlation), ())
                for name in self.modalities
            }
        if self.knowledge:
            near_one = _around_one
            self.entity_embedding = self.param(
                "entity_embedding", table, (self.num_entities - self.num_items, width)
            )
            self.relation_vectors = self.param("relation_vectors", near_one, (2 * self.num_relations, width))
            self.translations = self.param("translations", table, (self.num_relations, width))
            self.queries = [
                nn.Dense(width, use_bias=False, name=f"query_{hop}") for hop in range(config.knowledge_layers)
            ]
            if config.correlates("knowledge"):
                self.correlation_relation = self.param("correlation_relation", near_one, (1, width))
        if self.modalities or self.knowledge:
            self.fusion_hidden = nn.Dense(width, name="fusion_hidden")
            self.fusion_logit = nn.Dense(1, use_bias=False, name="fusion_logit")
            names = (*self.modalities, *(("knowledge",) if self.knowledge else ()))
            self.gates = {name: nn.Dense(width, name=f"gate_{name}") for name in names}

    def __call__(self, graphs: Graphs, correlation: jraph.GraphsTuple) -> Encoded:
        collaborative = self._collaborative(graphs, correlation)
        item_views = {name: self._modality(name, graphs, correlation) for name in self.modalities}
        if self.knowledge:
            item_views["knowledge"] = self._knowledge(graphs, correlation)
        if not item_views:
            return Encoded(collaborative, collaborative, {}, None)
        width = self.config.width
        user_sides = ops.spmm(graphs.user_items, jnp.concatenate(list(item_views.values()), axis=1))
        views = {
            name: View(user_sides[:, n * width : (n + 1) * width], items)
            for n, (name, items) in enumerate(item_views.items())
        }
        final, weights = self._fuse(collaborative, views)
        return Encoded(final, collaborative, views, weights)

    def _collaborative(self, graphs: Graphs, correlation: jraph.GraphsTuple) -> View:
        config = self.config
        x = propagate(
            graphs.interactions,
            jnp.concatenate([self.user_embedding, self.item_embedding]),
            num_layers=config.interaction_layers,
            correlation=correlation if config.correlates("interactions") else None,
            correlation_weight=config.interaction_correlation,
            first_receiver=self.num_users,
        )
        return View(x[: self.num_users], x[self.num_users :])

    def _modality(self, name: str, graphs: Graphs, correlation: jraph.GraphsTuple) -> Array:
        """Behaviour-guided purification, then the item graph (Yu et al., "MGCN", MM 2023, eq. (3) to (5))."""
        config, graph = self.config, graphs.features[name]
        gate = nn.sigmoid(self.purifiers[name](self.projections[name](graph.nodes.x)))
        purified = jnp.where(graph.nodes.present[:, None], self.item_embedding * gate, 0.0)
        use_correlation = config.correlates("features")
        share = config.feature_correlation
        if use_correlation and config.learn_feature_correlation:
            share = nn.sigmoid(self.feature_correlation[name])
        return propagate_features(
            graph,
            purified,
            num_layers=config.feature_layers,
            correlation=correlation if use_correlation else None,
            correlation_weight=share,
        )

    def _knowledge(self, graphs: Graphs, correlation: jraph.GraphsTuple) -> Array:
        config, graph = self.config, graphs.knowledge
        assert graph is not None
        use_correlation = config.correlates("knowledge")
        x = jnp.concatenate([self.item_embedding, self.entity_embedding])
        hops = []
        for query in self.queries:
            x = attend_knowledge(
                graph,
                query(x),
                x,
                self.relation_vectors,
                correlation=correlation if use_correlation else None,
                correlation_relation=self.correlation_relation if use_correlation else None,
                correlation_weight=config.knowledge_correlation,
            )
            hops.append(x[: self.num_items])
        return sum(hops[1:], hops[0]) / len(hops)

    def _fuse(self, collaborative: View, views: dict[str, View]) -> tuple[View, Array]:
        """Attention over the views gives a common part; gated remainders are added (MGCN, eq. (8) to (11))."""
        base = jnp.concatenate(collaborative)
        stacked = jnp.stack([jnp.concatenate(view) for view in views.values()], axis=1)
        weights = nn.softmax(self.fusion_logit(nn.tanh(self.fusion_hidden(stacked)))[..., 0], axis=1)
        common = jnp.einsum("nv,nvd->nd", weights, stacked)
        gates = jnp.stack([nn.sigmoid(self.gates[name](base)) for name in views], axis=1)
        side = common + jnp.mean(gates * (stacked - common[:, None, :]), axis=1)
        fused = base + side
        return View(fused[: self.num_users], fused[self.num_users :]), weights

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
    def init_params(self, rng: PRNGKeyArray, graphs: Graphs, correlation: jraph.GraphsTuple) -> Params:
        """Fresh parameters.

        Args:
          rng: key.
          graphs: static graphs.
          correlation: any correlation graph of the right shape.

        Returns:
          Nested dictionary of float32 arrays.
        """
        return jax.jit(self.init)(rng, graphs, correlation)["params"]


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


def _around_one(key: Array, shape: tuple[int, ...]) -> Array:
    """Relation vectors start near the identity, so that the first messages are plain neighbours."""
    return 1.0 + 0.1 * jax.random.normal(key, shape)


def _logit_of(share: float) -> Any:
    share = min(max(share, 1e-3), 1.0 - 1e-3)
    return nn.initializers.constant(float(jnp.log(share / (1.0 - share))))

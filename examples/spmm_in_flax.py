"""Propagation with `slif_jax.ops.spmm` inside a plain Flax GNN: two layers that tell the groups of a random graph.

    python examples/spmm_in_flax.py

The graph is built once on the host, with every index checked, and passed through jit like any other argument.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from jax import Array

from slif_jax import graphs, ops

NUM_NODES, NUM_GROUPS = 400, 4


class Gnn(nn.Module):
    """Graph convolutions: a dense layer, then the weighted sum over the edges that end at each node."""

    width: int
    num_classes: int

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple, x: Array) -> Array:
        x = nn.relu(ops.spmm(graph, nn.Dense(self.width)(x)))
        return ops.spmm(graph, nn.Dense(self.num_classes)(x))


def random_graph(rng: np.random.Generator) -> tuple[jraph.GraphsTuple, np.ndarray]:
    """A graph whose edges mostly stay within a group, symmetric-normalised, and the group of each node."""
    group = rng.integers(0, NUM_GROUPS, NUM_NODES)
    likely = np.where(group[:, None] == group[None, :], 0.06, 0.006)
    ends = np.triu(rng.random((NUM_NODES, NUM_NODES)) < likely, 1)
    senders, receivers = np.nonzero(ends | ends.T | np.eye(NUM_NODES, dtype=bool))
    weight = graphs.symmetric_normalise(
        jnp.asarray(senders), jnp.asarray(receivers), jnp.ones(len(senders)), num_nodes=NUM_NODES
    )
    return ops.build_graph(senders, receivers, weight, num_senders=NUM_NODES, num_receivers=NUM_NODES), group


def main() -> float:
    """Trains on a tenth of the nodes; gives the accuracy on the others."""
    rng = np.random.default_rng(0)
    graph, group = random_graph(rng)
    labels, known = jnp.asarray(group), jnp.asarray(rng.random(NUM_NODES) < 0.1)
    x = jnp.eye(NUM_NODES)  # a node is known by its number alone: what it learns comes over the edges
    model, tx = Gnn(width=16, num_classes=NUM_GROUPS), optax.adam(2e-2)
    params = model.init(jax.random.key(0), graph, x)

    def loss_fn(params: Any, graph: jraph.GraphsTuple) -> Array:
        logits: Any = model.apply(params, graph, x)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(each, where=known)

    @jax.jit
    def train(params: Any, graph: jraph.GraphsTuple) -> tuple[Any, Array]:
        def step(carry: Any, _: None) -> tuple[Any, Array]:
            params, opt_state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, graph)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, _), each = jax.lax.scan(step, (params, tx.init(params)), length=100)
        return params, each

    params, each = train(params, graph)
    logits: Any = model.apply(params, graph, x)
    right = jnp.argmax(logits, axis=1) == labels
    accuracy = float(jnp.mean(right, where=~known))
    print(f"loss {each[0]:.3f} -> {each[-1]:.3f}, accuracy on nodes without a label {accuracy:.0%}")
    return accuracy


if __name__ == "__main__":
    main()

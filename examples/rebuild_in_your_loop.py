"""The correlation rebuild as a step of somebody's own training loop: matrix factorisation that learns item neighbours.

    python examples/rebuild_in_your_loop.py

The loop is plain JAX and optax. After each epoch `correlation.rebuild` turns the item vectors into a graph of their
nearest items, and the next epoch smooths the items over it. Its shapes never change, so `epoch` is compiled once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
import optax
from jax import Array

from slif_jax import correlation, data, losses, ops

NUM_NEIGHBORS = 8
WIDTH = 32
STEPS = 40  # of an epoch
BATCH = 256

Params = dict[str, Array]


def items_of(params: Params, graph: jraph.GraphsTuple) -> Array:
    """Item vectors, each with half of what its neighbours have."""
    return params["items"] + 0.5 * ops.spmm(graph, params["items"])


def main() -> list[tuple[float, float]]:
    """Trains for six epochs; gives the loss and the share of edges kept, epoch by epoch."""
    dataset = data.load("synthetic:users=300,items=200,seed=0")
    train, (num_users, num_items) = jnp.asarray(dataset.train), (dataset.num_users, dataset.num_items)
    tx = optax.adam(1e-2)

    def loss_fn(params: Params, graph: jraph.GraphsTuple, pairs: Array, others: Array) -> Array:
        users, items = params["users"][pairs[:, 0]], items_of(params, graph)
        scores = jnp.sum(users * items[pairs[:, 1]], axis=1)
        return jnp.mean(losses.bpr_loss(scores, jnp.sum(users * items[others], axis=1)[:, None]))

    @jax.jit
    def epoch(params: Params, opt_state: optax.OptState, graph: jraph.GraphsTuple, rng: Array) -> Any:
        def step(carry: tuple[Params, optax.OptState], key: Array) -> Any:
            params, opt_state = carry
            pairs = jax.random.choice(key, train, (BATCH,))
            others = jax.random.randint(jax.random.fold_in(key, 1), (BATCH,), 0, num_items)
            loss, grads = jax.value_and_grad(loss_fn)(params, graph, pairs, others)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, opt_state), each = jax.lax.scan(step, (params, opt_state), jax.random.split(rng, STEPS))
        return params, opt_state, jnp.mean(each)

    rng = jax.random.key(0)
    sizes = {"users": num_users, "items": num_items}
    params = {name: 0.1 * jax.random.normal(jax.random.fold_in(rng, n), (n, WIDTH)) for name, n in sizes.items()}
    opt_state = tx.init(params)
    graph = correlation.empty(num_items, NUM_NEIGHBORS)
    rows: list[tuple[float, float]] = []
    for number in range(6):
        params, opt_state, loss = epoch(params, opt_state, graph, jax.random.fold_in(rng, number))
        rebuilt = correlation.rebuild(items_of(params, graph), num_neighbors=NUM_NEIGHBORS)
        kept = correlation.share_kept(graph, rebuilt, num_neighbors=NUM_NEIGHBORS)
        graph = rebuilt
        rows.append((float(loss), float(kept)))
        print(f"epoch {number + 1}  loss {rows[-1][0]:.4f}  edges kept {rows[-1][1]:.0%}")
    return rows


if __name__ == "__main__":
    main()

"""What devices of a mesh exchange in a step, a rebuild and an evaluation, counted from shapes."""

from typing import NamedTuple

from slif_jax.config import Config
from slif_jax.planning.sizes import Sizes, dense_parameters
from slif_jax.planning.space import FLOAT, carried_bytes, compared_columns, scored_columns
from slif_jax.planning.work import Number


class Exchange(NamedTuple):
    """Collectives of one kind."""

    part: str
    name: str
    num_bytes: Number
    """That a device receives each time."""
    times: Number = 1


def step_exchanges(sizes: Sizes, config: Config, devices: int) -> list[Exchange]:
    """The collectives of a step: bytes that a device receives.

    A layer gathers its sources, and on the way back scatters the sums of their gradients: as many bytes again.

    Args:
      sizes: of the data.
      config: settings.
      devices: D; none are needed by one.

    Returns:
      The exchanges.
    """
    if devices == 1:
        return []
    sizes = sizes.used(config)
    d, views = config.width, sizes.num_views
    away = (devices - 1) / devices
    number = carried_bytes(config) * away
    nodes = sizes.num_users + sizes.num_items
    found = []

    def both_ways(name: str, rows: Number, columns: Number, layers: int, blocks: int = config.gather_blocks) -> None:
        found.append(Exchange("propagate", name, number * rows * columns / blocks, 2 * layers * blocks))

    if config.interaction_layers:
        both_ways("interactions", nodes, d, config.interaction_layers)
    if sizes.modalities:
        both_ways("feature graphs", sizes.num_items, d, config.feature_layers * len(sizes.modalities))
    if sizes.num_triples:
        both_ways("knowledge", sizes.num_entities, d, config.knowledge_layers, blocks=1)
    if views:
        both_ways("users of the views", sizes.num_items, views * d, 1)
    if sizes.num_cold:  # they inherit embeddings and collaborative vectors
        found.append(Exchange("propagate", "items without interactions", FLOAT * away * sizes.num_items * d, 4))
    found.append(Exchange("loss", "which interactions", 2 * FLOAT * away * config.batch_size, 2))
    batch, negatives = config.batch_size, config.softmax_negatives if config.loss == "softmax" else 0
    own = 0 if negatives else config.batch_size * config.num_negatives
    # Reduce-scatter of the rows and all-gather of their gradients, per view; a table shorter than the batch is fused
    # first and exchanged once. Rows that all devices get are summed, and their gradients are not exchanged.
    per_table = [("users", batch, sizes.num_users, 0), ("items", batch + own, sizes.num_items, negatives)]
    for name, rows, table, everywhere in per_table:
        arrays = 1 if table <= rows + everywhere else views + 1
        found.append(Exchange("loss", f"{name} of the batch", FLOAT * away * rows * d, 2 * arrays))
        if everywhere:
            found.append(Exchange("loss", "shared negatives", 2 * FLOAT * away * everywhere * d, arrays))
    if contrasted := sizes.num_contrasted(config):
        rows = min(config.consistency_batch, batch)
        found.append(Exchange("loss", "consistency", 2 * FLOAT * away * rows * d, 2 * (contrasted + 1)))
    if sizes.num_triples:
        found.append(Exchange("loss", "which triples", 3 * 2 * FLOAT * away * config.knowledge_batch))
        found.append(Exchange("loss", "triples", FLOAT * away * config.knowledge_batch * d, 6))
    if dense := dense_parameters(sizes, config):
        found.append(Exchange("update", "gradients of small parameters", 2 * FLOAT * away * dense))
    return found


def rebuild_exchanges(sizes: Sizes, config: Config, devices: int) -> list[Exchange]:
    """The collectives of a rebuild: every device gets all item vectors, and the scale of each."""
    if devices == 1:
        return []
    width = compared_columns(sizes, config)
    return [Exchange("rebuild", "item vectors", FLOAT * sizes.num_items * (width + 1) * (devices - 1) / devices)]


def evaluate_exchanges(sizes: Sizes, config: Config, devices: int) -> list[Exchange]:
    """The collectives of an evaluation: those of the layers, one way, all item vectors, and the users' covariance."""
    steps = step_exchanges(sizes, config, devices)
    layers = [e._replace(part="evaluate", times=e.times / 2) for e in steps if e.part == "propagate"]
    if devices == 1:
        return layers
    away, width = (devices - 1) / devices, scored_columns(sizes, config)
    found = [*layers, Exchange("evaluate", "item vectors", FLOAT * sizes.num_items * width * away)]
    if config.correlates_scores():
        found.append(Exchange("evaluate", "covariance of users", 2 * FLOAT * width**2 * away))
    return found

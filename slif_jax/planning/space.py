"""Bytes that a training takes on each of D devices, by purpose; one device is the case D = 1."""

from slif_jax.blend import LISTED, MOST_USERS, USERS_AT_ONCE
from slif_jax.config import CONTENT, Config
from slif_jax.planning.sizes import Sizes, dense_parameters, table_parameters

FLOAT = 4
_EDGE_BYTES = 20  # sender, receiver, weight or relation, and the order by sender: Layout and Edges
_SLOT_BYTES = 8  # a graph of fixed degree brings its slots
_BUILT_WHOLE = ("parameters", "optimizer", "average of the parameters", "self-loop", "graphs", "linear models")

# What XLA keeps within a step, in arrays of the named size; fitted to its own analysis (docs/plans/README.md).
_ROWS = 2.4  # a vector of each user and item
_VIEW_ROWS = 2.2  # the same per view beside the collaborative one
_ENTITY_ROWS = 4.3  # a vector of each entity
_HOP_ROWS = 2.4  # the same per hop
_BATCH_ROWS = 2.2  # a vector per view of each row that a batch looks up
_LOGITS = 1.95  # a score of each example against each negative
_MESSAGES = 1.0  # a vector per edge, where XLA writes messages
ATTENTION_MESSAGES = 12.5  # the same in the attention, on its way back
# Where columns are cut into blocks and put together again:
_BLOCK_ROWS = 2.3  # a vector of each user and item
_BLOCK_VIEW_ROWS = 8.0  # a vector of each item per view beside the collaborative one


def carried_bytes(config: Config) -> int:
    """Bytes of a number on its way over a graph, and between devices."""
    return 2 if config.precision == "bf16" else FLOAT


def linear_columns(sizes: Sizes, config: Config) -> int:
    """Columns that linear models add to the vectors that scores are made of."""
    columns = {
        CONTENT: min(config.content_rank, sum(sizes.used(config).modalities)),
        "popularity": 1,
        "regression": min(config.regression_rank, sizes.num_users, sizes.num_items),
        "walks": min(config.walk_rank, sizes.num_items),
    }
    return sum(columns[name] for name in config.linear_weights())


def scored_columns(sizes: Sizes, config: Config) -> int:
    """Columns of the vectors that scores are inner products of."""
    return config.width + linear_columns(sizes, config)


def compared_columns(sizes: Sizes, config: Config) -> int:
    """Columns of the vectors by which a rebuild finds the nearest items."""
    return scored_columns(sizes, config) if config.correlates_scores() else config.width


def rows_each(count: int, devices: int) -> int:
    """Rows of a table on each device."""
    return -(-count // devices)


def device_bytes(sizes: Sizes, config: Config, *, devices: int = 1, native_kernels: bool = True) -> dict[str, int]:
    """Bytes on each device while it trains, by purpose. The program itself is not counted.

    Args:
      sizes: of the data.
      config: settings.
      devices: D, the devices that share the rows of all tables.
      native_kernels: see `Accelerator`.

    Returns:
      Bytes by purpose.
    """
    sizes = sizes.used(config)
    d = config.width
    tables, dense = -(-table_parameters(sizes, config) // devices), dense_parameters(sizes, config)
    items = rows_each(sizes.num_items, devices)
    moments = (2 + (config.accumulate_steps > 1)) * FLOAT * (tables + dense)  # and the gradients so far
    parts = {
        "parameters": FLOAT * (tables + dense),
        "optimizer": moments,
        "average of the parameters": FLOAT * (tables + dense) if config.parameter_momentum else 0,
        "self-loop": FLOAT * (items * d + config.correlates_scores() * compared_columns(sizes, config) ** 2)
        + _fixed_degree_bytes(sizes, items, config.correlation_neighbors),
        "graphs": _graph_bytes(sizes, config, devices),
        "features": items * sum(FLOAT * width + 1 for width in sizes.modalities),
        "linear models": (rows_each(sizes.num_users, devices) + items) * linear_columns(sizes, config) * FLOAT,
        "interactions for sampling": _sampling_bytes(sizes, config, devices),
        "ranking tasks": 2 * rows_each(5 * sizes.num_edges + 16 * sizes.num_users, devices),
        "gathered sources": _gathered_bytes(sizes, config) if devices > 1 else 0,
        "messages": 0 if native_kernels else _message_bytes(sizes, config, devices),
        "within a step": _step_bytes(sizes, config, devices),
    }
    in_a_step = parts["gathered sources"] + parts["messages"] + parts["within a step"]
    parts["between epochs, beyond that of a step"] = max(0, _between_bytes(sizes, config, devices) - in_a_step)
    return {purpose: int(value) for purpose, value in parts.items()}


def host_bytes(sizes: Sizes, config: Config, devices: int) -> int:
    """Bytes that a process has in its host's memory before it deals them out to several devices.

    These are the whole graphs, the linear models, in double precision while they are fitted, and the first state,
    without what is taken for a while to sort edges. Features are read by rows; by --content_weight all, in blocks.

    Args:
      sizes: of the data.
      config: settings.
      devices: D of the mesh.

    Returns:
      Bytes; 0 for one device.
    """
    whole = device_bytes(sizes, config)
    return sum(whole[name] for name in _BUILT_WHOLE) + 3 * whole["linear models"] if devices > 1 else 0


def edges_each(count: int, devices: int) -> int:
    """Edges on each device: they are dealt out evenly."""
    return -(-count // devices)


def _graph_bytes(sizes: Sizes, config: Config, devices: int) -> int:
    users, items, entities = (
        rows_each(count, devices) for count in (sizes.num_users, sizes.num_items, sizes.num_entities)
    )
    nodes = sizes.num_users + sizes.num_items
    # Per graph: edges, bounds of this device's receivers, bounds of the senders of all devices.
    total = _EDGE_BYTES * edges_each(2 * sizes.num_edges, devices) + 4 * (users + items + nodes)
    total += _EDGE_BYTES * edges_each(sizes.num_edges, devices) + 4 * (users + sizes.num_items)
    if sizes.num_triples:
        total += _EDGE_BYTES * edges_each(2 * sizes.num_triples, devices) + 4 * (entities + sizes.num_entities)
    total += len(sizes.modalities) * _fixed_degree_bytes(sizes, items, config.feature_neighbors)
    return total + rows_each(sizes.num_cold, devices) * (4 + 8 * config.feature_neighbors) + items


def _fixed_degree_bytes(sizes: Sizes, items: int, degree: int) -> int:
    return items * (degree * (_EDGE_BYTES + _SLOT_BYTES) + 8) + 4 * sizes.num_items


def _sampling_bytes(sizes: Sizes, config: Config, devices: int) -> int:
    """User, item and weight of each interaction, the triples, and on a mesh the place of each row.

    Negatives of one's own are looked up among all interactions, on every device.
    """
    each = 12 if config.weighs_interactions() else 8
    total = rows_each(each * sizes.num_edges, devices) + rows_each(12 * sizes.num_triples, devices)
    total += 4 * (sizes.num_users + sizes.num_items) + (0 if config.loss == "softmax" else 4 * sizes.num_edges)
    if devices > 1:
        total += 4 * (sizes.num_users + sizes.num_items + sizes.num_entities)
    return total


def _gathered_bytes(sizes: Sizes, config: Config) -> int:
    """Whole tables on a device.

    Those of the knowledge graph are kept for the way back, the others live for one layer, which also has a copy of the
    items' part for the correlation graph. Layers of different graphs do not wait for one another: XLA has theirs at
    once. Of a layer's blocks it has one.
    """
    hops = config.knowledge_layers * sizes.num_entities if sizes.num_triples else 0
    features, views = sizes.num_items * len(sizes.modalities), sizes.num_items * sizes.num_views
    interactions = 0
    if config.interaction_layers:
        interactions = sizes.num_users + sizes.num_items * (1 + config.correlates("interactions"))
    if hops and config.gather_blocks > 1:
        hops += sizes.num_entities  # gradients on their way back do not share the place of other tables
    rows = hops + (features + views + interactions) / config.gather_blocks
    return int(carried_bytes(config) * config.width * rows)


def _blocks(config: Config, devices: int) -> int:
    return config.gather_blocks if devices > 1 else 1


def _message_bytes(sizes: Sizes, config: Config, devices: int) -> int:
    edges = max(2 * sizes.num_edges, sizes.num_edges * sizes.num_views)
    plain = _MESSAGES * edges_each(edges, devices) / _blocks(config, devices)
    attention = ATTENTION_MESSAGES * edges_each(2 * sizes.num_triples, devices)
    return int(FLOAT * config.width * max(plain, attention))


def batch_rows(sizes: Sizes, config: Config, devices: int) -> int:
    """Rows of users and items that a device fuses in a step."""
    examples = rows_each(config.batch_size, devices)
    shared = config.loss == "softmax"
    negatives = config.softmax_negatives if shared else examples * config.num_negatives
    users = min(examples, rows_each(sizes.num_users, devices))
    return users + min(examples + negatives, rows_each(sizes.num_items, devices))


def logits(config: Config, devices: int) -> int:
    """Scores of a step on a device."""
    per_example = config.softmax_negatives if config.loss == "softmax" else config.num_negatives
    return rows_each(config.batch_size, devices) * per_example


def _step_bytes(sizes: Sizes, config: Config, devices: int) -> int:
    d, views = config.width, sizes.num_views
    nodes = rows_each(sizes.num_users, devices) + rows_each(sizes.num_items, devices)
    entities = rows_each(sizes.num_entities, devices) if sizes.num_triples else 0
    rows = (_ROWS + _VIEW_ROWS * views) * nodes + (_ENTITY_ROWS + _HOP_ROWS * config.knowledge_layers) * entities
    if _blocks(config, devices) > 1:
        rows += _BLOCK_ROWS * nodes + _BLOCK_VIEW_ROWS * views * rows_each(sizes.num_items, devices)
    batch = _BATCH_ROWS * (1 + views) * batch_rows(sizes, config, devices)
    return int(FLOAT * (d * (rows + batch) + _LOGITS * logits(config, devices)))


def _between_bytes(sizes: Sizes, config: Config, devices: int) -> int:
    """What encoding, tuning and ranking hold, or the rebuild after them."""
    users, items = rows_each(sizes.num_users, devices), rows_each(sizes.num_items, devices)
    scored, compared = scored_columns(sizes, config), compared_columns(sizes, config)
    encoded = (users + items) * (config.width * (2 + sizes.num_views) + scored)
    others = sizes.num_items if devices > 1 else 0
    ranking = 2 * others * scored
    if config.tunes_linear_weights():
        ranking += LISTED * (USERS_AT_ONCE * scored + MOST_USERS * (1 + len(config.linear_weights())))
    centred = users * scored if config.correlates_scores() else 0
    factors = 4 * compared**2 if config.correlates_scores() else 0
    rebuild = (3 * items + others) * compared + factors if config.uses_correlation() else 0
    return FLOAT * max(encoded + max(ranking, centred), rebuild)

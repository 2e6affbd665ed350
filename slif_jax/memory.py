"""An estimate of the memory that a training needs, from shapes alone.

The bytes per edge are those of the graphs' arrays; what is alive within a step was fitted to what the compiler says of
an epoch on ml-100k (40 MB) and on tiktok (53 MB), on a CPU.
"""

from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.graphs import used_modalities, uses_knowledge

_FLOAT = 4
_EDGE_BYTES = 21  # ends, weight, and the order by sender; an entry per node is within it
_NEIGHBOR_EDGE_BYTES = 30  # a graph that changes carries the lists of both directions
_PROGRAM_BYTES = 850 * 2**20  # Python, JAX, and the compiler while it works on an epoch
_STEP_ARRAYS = 4.5  # of the size of one view of all users and items, per view
_HOP_ARRAYS = 6  # of the size of the entity table, per hop


def num_parameters(dataset: Dataset, config: Config) -> int:
    """Numbers in the parameters of the model that fits the data.

    Args:
      dataset: loaded data.
      config: switches and widths.

    Returns:
      The count.
    """
    d, modalities = config.width, used_modalities(dataset, config)
    knowledge = uses_knowledge(dataset, config)
    count = (dataset.num_users + dataset.num_items) * d
    for name in modalities:
        count += (dataset.features[name].values.shape[1] + 1) * d + (d + 1) * d
        count += d * (config.missing_features == "learned")
        count += config.correlates("features") and config.learn_feature_correlation
    if knowledge:
        count += (dataset.num_entities - dataset.num_items + 3 * dataset.num_relations) * d
        count += config.knowledge_layers * d * d + d * config.correlates("knowledge")
    if modalities or knowledge:
        count += (d + 1) * d + d + (len(modalities) + knowledge) * (d + 1) * d
    return count


def estimate(dataset: Dataset, config: Config) -> dict[str, int]:
    """Bytes that training takes at its peak, by purpose.

    Args:
      dataset: loaded data.
      config: switches, widths and neighbour counts.

    Returns:
      Bytes by purpose, and their 'total'. On a GPU all but 'program and compiler' is the device's.
    """
    d, items = config.width, dataset.num_items
    nodes = dataset.num_users + items
    modalities, knowledge = used_modalities(dataset, config), uses_knowledge(dataset, config)
    parameters = _FLOAT * num_parameters(dataset, config)
    loop = items * (config.correlation_neighbors * _NEIGHBOR_EDGE_BYTES + d * _FLOAT)
    neighbors = len(modalities) * items * config.feature_neighbors * _NEIGHBOR_EDGE_BYTES
    triples = 2 * len(dataset.triples) * _EDGE_BYTES if knowledge else 0
    entities = config.knowledge_layers * dataset.num_entities if knowledge else 0
    views = 1 + len(modalities) + knowledge
    step = d * _FLOAT * (_STEP_ARRAYS * views * nodes + _HOP_ARRAYS * entities)
    parts = {
        "program and compiler": _PROGRAM_BYTES,
        "parameters": parameters,
        "optimizer": 2 * parameters,
        "average of the parameters": parameters if config.parameter_momentum else 0,
        "self-loop": loop,
        "copy of these for a checkpoint": (3 + bool(config.parameter_momentum)) * parameters + loop,
        "graphs": 3 * len(dataset.train) * _EDGE_BYTES + neighbors + triples,
        "features": sum(items * dataset.features[name].values.shape[1] * _FLOAT for name in modalities),
        "within a step": int(step),
    }
    return parts | {"total": sum(parts.values())}

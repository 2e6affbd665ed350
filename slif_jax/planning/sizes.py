"""What a plan knows of a data set: counts, and no data."""

import dataclasses

from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.graphs import used_modalities


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Counts of a data set, as large as one likes: nothing is allocated.

    Raises:
      ValueError: on a count that no data set can have.
    """

    num_users: int
    num_items: int
    num_edges: int
    """Training interactions."""
    num_entities: int = 0
    """Nodes of the knowledge graph, the items among them; 0 stands for the items alone."""
    num_relations: int = 1
    num_triples: int = 0
    modalities: tuple[int, ...] = ()
    """Widths of the raw features."""
    num_cold: int = 0
    """Items without training interactions."""

    def __post_init__(self) -> None:
        for name in ("num_users", "num_items", "num_edges"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1: got {getattr(self, name)}.")
        if min(self.num_triples, self.num_cold, *self.modalities, 0) < 0:
            raise ValueError(f"Counts must not be negative: got {self}.")
        if not self.num_entities:
            object.__setattr__(self, "num_entities", self.num_items)
        if self.num_entities < self.num_items:
            raise ValueError(
                f"`num_entities` counts the items too: got {self.num_entities} for {self.num_items} items."
            )

    def used(self, config: Config) -> "Sizes":
        """The sizes without what the switches of `config` turn off."""
        knowledge = config.knowledge_graph and config.side_information and self.num_triples > 0
        modalities = self.modalities if config.side_information and config.modalities != ("none",) else ()
        side = bool(modalities) or knowledge
        return dataclasses.replace(
            self,
            num_entities=self.num_entities if knowledge else self.num_items,
            num_triples=self.num_triples if knowledge else 0,
            modalities=modalities,
            num_cold=self.num_cold if side else 0,
        )

    @property
    def num_views(self) -> int:
        """Views beside the collaborative one."""
        return len(self.modalities) + (self.num_triples > 0)

    def num_contrasted(self, config: Config) -> int:
        """Views that consistency contrasts with own embeddings."""
        return len(config.contrasted_views([str(view) for view in range(self.num_views)]))


def sizes_of(dataset: Dataset, config: Config) -> Sizes:
    """The counts of loaded data, less what `config` does not use.

    Args:
      dataset: loaded data.
      config: switches.

    Returns:
      `Sizes`.
    """
    widths = tuple(dataset.features[name].values.shape[1] for name in used_modalities(dataset, config))
    warm = len(set(dataset.train[:, 1].tolist()))
    return Sizes(
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        num_edges=len(dataset.train),
        num_entities=max(dataset.num_entities, dataset.num_items),
        num_relations=dataset.num_relations,
        num_triples=len(dataset.triples),
        modalities=widths,
        num_cold=dataset.num_items - warm,
    ).used(config)


def table_parameters(sizes: Sizes, config: Config) -> int:
    """Numbers in the parameters that are shared out by rows: users, items, entities."""
    return (sizes.num_users + sizes.num_items + _other_entities(sizes)) * config.width


def dense_parameters(sizes: Sizes, config: Config) -> int:
    """Numbers in the parameters that every device has."""
    d, count = config.width, 0
    for width in sizes.modalities:
        count += (width + 1) * d + (d + 1) * d
        count += d * (config.missing_features == "learned")
        count += config.correlates("features") and config.learn_feature_correlation
    if sizes.num_triples:
        count += 3 * sizes.num_relations * d + config.knowledge_layers * d * d + d * config.correlates("knowledge")
    if sizes.num_views:
        count += (d + 1) * d + d + sizes.num_views * (d + 1) * d
    return count


def _other_entities(sizes: Sizes) -> int:
    return sizes.num_entities - sizes.num_items if sizes.num_triples else 0

"""From a configuration to the data it is trained on. Everything that restores a run goes through here."""

from slif_jax import data, noise
from slif_jax.config import Config
from slif_jax.credibility import weigh_interactions
from slif_jax.data import Dataset


def load_dataset(config: Config, *, data_dir: str | None = None) -> Dataset:
    """Loads the data set of a configuration, with the cold items, the noise and the weights it asks for.

    Args:
      config: its Data fields count, and whether interactions are weighed.
      data_dir: where fetched data sets are kept; None is the user's cache folder.

    Returns:
      The data set; its fingerprint is that of the altered data.

    Raises:
      DataError: on unusable data.
    """
    dataset = data.load(
        config.dataset,
        data_dir=data_dir,
        format=config.format,
        split=config.split,
        split_seed=config.split_seed,
        k_core=config.k_core,
        min_rating=config.min_rating,
    )
    dataset = noise.hold_out_items(dataset, config.cold_items, config.split_seed)
    dataset = noise.add_interactions(dataset, config.interaction_noise, config.noise_seed)
    dataset = noise.replace_tails(dataset, config.triple_noise, config.noise_seed)
    dataset = noise.shuffle_features(dataset, config.feature_noise, config.noise_seed)
    dataset = noise.take_away_features(dataset, config.missing_modalities, config.noise_seed)
    return weigh_interactions(dataset) if config.weighs_interactions() else dataset

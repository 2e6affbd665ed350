"""Noise: only the training part changes, by the share asked for, and by a seed of its own."""

import dataclasses

import numpy as np
import pytest

from slif_jax import data, noise
from slif_jax.config import Config
from slif_jax.prepare import load_dataset

SPEC = "synthetic:users=80,items=50,clusters=3,missing=0.2,seed=4"
ALTERATIONS = {
    "interactions": noise.add_interactions,
    "triples": noise.replace_tails,
    "features": noise.shuffle_features,
    "modalities": noise.take_away_features,
    "cold": noise.hold_out_items,
}


@pytest.fixture(scope="module")
def clean() -> data.Dataset:
    return data.load(SPEC)


def pairs(rows: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, rows.tolist()))


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_validation_and_test_stay_and_the_seed_decides(clean: data.Dataset, kind: str):
    alter = ALTERATIONS[kind]
    spoilt = alter(clean, 0.3, 1)
    np.testing.assert_array_equal(spoilt.valid, clean.valid)
    np.testing.assert_array_equal(spoilt.test, clean.test)
    assert spoilt.fingerprint != clean.fingerprint
    assert alter(clean, 0.3, 1).fingerprint == spoilt.fingerprint
    assert alter(clean, 0.3, 2).fingerprint != spoilt.fingerprint
    assert alter(clean, 0.0, 1).fingerprint == clean.fingerprint
    data.validate(spoilt)


def test_interactions_are_added_and_none_is_lost(clean: data.Dataset):
    spoilt = noise.add_interactions(clean, 0.25, 0)
    before, after = pairs(clean.train), pairs(spoilt.train)
    assert before < after
    assert len(after - before) == round(0.25 * len(before))
    assert not (after - before) & (pairs(clean.valid) | pairs(clean.test))
    np.testing.assert_array_equal(np.unique(spoilt.train[:, 1]), np.unique(clean.train[:, 1]))


def test_too_many_interactions_get_one_line():
    dense = data.load("synthetic:users=6,items=10,clusters=1,degree=5,seed=0")
    with pytest.raises(data.DataError, match=r"smaller --interaction_noise"):
        noise.add_interactions(dense, 3.0, 0)


def test_tails_are_replaced_and_heads_and_relations_stay(clean: data.Dataset):
    spoilt = noise.replace_tails(clean, 0.4, 0)
    kept = len(pairs(clean.triples) & pairs(spoilt.triples)) / len(clean.triples)
    assert 0.55 < kept < 0.68  # a random tail may make a triple that was there
    assert set(spoilt.triples[:, 2].tolist()) <= set(clean.triples[:, 2].tolist())
    assert pairs(spoilt.triples[:, :2]) <= pairs(clean.triples[:, :2])
    everything = noise.replace_tails(clean, 1.0, 0)
    assert len(everything.triples) > 0.5 * len(clean.triples)


def test_a_share_of_the_items_loses_a_modality_and_nothing_else(clean: data.Dataset):
    spoilt = noise.take_away_features(clean, 0.5, 0)
    lost = []
    for name, modality in clean.features.items():
        other = spoilt.features[name]
        np.testing.assert_array_equal(other.values, modality.values)
        assert not (other.present & ~modality.present).any()
        lost.append(modality.present & ~other.present)
        assert lost[-1].sum() == round(0.5 * modality.present.sum())
    assert (lost[0] != lost[1]).any()  # each modality has its own draw


def test_features_change_places_among_the_items_that_have_them(clean: data.Dataset):
    spoilt = noise.shuffle_features(clean, 0.5, 0)
    for name, modality in clean.features.items():
        other = spoilt.features[name]
        np.testing.assert_array_equal(other.present, modality.present)
        moved = (other.values != modality.values).any(axis=1)
        assert moved.sum() == round(0.5 * modality.present.sum())
        assert not moved[~modality.present].any()
        np.testing.assert_array_equal(
            np.sort(other.values[modality.present], axis=0), np.sort(modality.values[modality.present], axis=0)
        )


def test_cold_items_lose_their_training_rows_only(clean: data.Dataset):
    cold = noise.hold_out_items(clean, 0.2, 0)
    before, after = np.unique(clean.train[:, 1]), np.unique(cold.train[:, 1])
    assert len(before) - len(after) == round(0.2 * len(before))
    assert pairs(cold.train) == {pair for pair in pairs(clean.train) if pair[1] in set(after.tolist())}
    np.testing.assert_array_equal(cold.triples, clean.triples)


def test_a_configuration_brings_its_noise_along(clean: data.Dataset):
    config = Config(dataset=SPEC)
    assert load_dataset(config).fingerprint == clean.fingerprint
    spoilt = load_dataset(dataclasses.replace(config, interaction_noise=0.1, feature_noise=0.1, noise_seed=3))
    again = noise.shuffle_features(noise.add_interactions(clean, 0.1, 3), 0.1, 3)
    assert spoilt.fingerprint == again.fingerprint
    other_model_seed = dataclasses.replace(config, interaction_noise=0.1, feature_noise=0.1, noise_seed=3, seed=9)
    assert load_dataset(other_model_seed).fingerprint == spoilt.fingerprint

"""The search: on validation alone, test for the chosen settings, the same whether it was interrupted or not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from slif_jax.config import Config
from slif_jax.data import load
from slif_jax.studies import sweep
from slif_jax.workdir import WorkdirError

CONFIG = Config(dataset="synthetic:users=30,items=30,clusters=2,seed=1", epochs=2, topk=(10, 20))


class FakeTraining:
    """Validation is best at a learning rate of 0.01; keeps what was asked for."""

    def __init__(self) -> None:
        self.searched: list[float] = []
        self.tested: list[float] = []
        self.stop_after = 1000

    def __call__(self, config: Config, workdir: Path, *, evaluate_test: bool, **options: Any) -> dict[str, Any]:
        if len(self.searched) == self.stop_after and not evaluate_test:
            raise KeyboardInterrupt
        (self.tested if evaluate_test else self.searched).append(config.learning_rate)
        value = 1.0 - abs(config.learning_rate - 0.01)
        scores = {"recall@20": value, "ndcg@20": value / 2}
        return {
            "protocol": "strict",
            "selected_on": "valid",
            "data_fingerprint": "d" * 64,
            "split_fingerprint": "5" * 64,
            "best_epoch": 1,
            "selected_value": value,
            "valid": scores,
            "test": scores if evaluate_test else {},
            "test_interval": {name: [0.0, 1.0] for name in scores},
        }


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    pytest.importorskip("optuna", reason="optuna is not installed")
    fake = FakeTraining()
    monkeypatch.setattr(sweep, "train_and_evaluate", fake)
    return fake


def search(
    workdir: Path, *, trials: int, config: Config = CONFIG, names: tuple[str, ...] = ("learning_rate", "l2")
) -> dict:
    return sweep.run_sweep(config, workdir, trials=trials, search=names, progress="off", command="a command")


def test_test_is_evaluated_once_for_the_best_on_validation(training: FakeTraining, tmp_path: Path):
    study = search(tmp_path, trials=12)
    assert len(training.searched) == 12
    assert training.searched[0] == CONFIG.learning_rate  # the search is never worse than where it starts
    assert all(5e-4 <= rate <= 2e-2 for rate in training.searched)
    assert training.tested == [min(training.searched, key=lambda rate: abs(rate - 0.01))]
    assert study["chosen"]["settings"]["learning_rate"] == training.tested[0]
    assert len({trial["run"] for trial in study["trials"]}) == 12
    files = {path.name for path in tmp_path.iterdir()}
    assert {"study.csv", "study.md", "study.tex", "study.png", "study.json", "trials.journal"} <= files
    rows = (tmp_path / "study.csv").read_text().splitlines()
    assert rows[0] == "trial,valid_recall@20,best_epoch,test_recall@20,test_ndcg@20,learning_rate,l2"
    assert all(rows[1].split(","))
    assert all(row.split(",")[3:5] == ["", ""] for row in rows[2:])
    assert matplotlib.image.imread(tmp_path / "study.png").ndim == 3
    assert "12 trials" in (tmp_path / "study.md").read_text()


def test_an_interrupted_search_ends_as_an_unbroken_one(training: FakeTraining, tmp_path: Path):
    search(tmp_path / "unbroken", trials=11)
    unbroken, training.searched = training.searched, []
    training.stop_after = 9
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "stopped", trials=11)
    training.stop_after = 1000
    search(tmp_path / "stopped", trials=11)
    assert training.searched == unbroken
    search(tmp_path / "stopped", trials=11)
    assert len(training.searched) == 11
    search(tmp_path / "stopped", trials=12)
    assert len(training.searched) == 12


def test_a_search_stopped_in_its_first_trial_still_starts_from_the_flags(training: FakeTraining, tmp_path: Path):
    training.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, trials=2)
    training.stop_after = 1000
    search(tmp_path, trials=2)
    assert training.searched[0] == CONFIG.learning_rate
    assert len(training.searched) == 2


def test_what_has_no_effect_is_not_searched():
    dataset = load(CONFIG.dataset)
    linear = dataclasses.replace(CONFIG, regression_weight=0.1, walk_weight=0.1, content_weight=0.1)
    linear = dataclasses.replace(linear, popularity_weight=0.1, collaborative_consistency_weight=0.1)
    weights = {"regression_weight", "walk_weight", "content_weight", "popularity_weight"}
    given = dataclasses.replace(linear, tune_linear_weights=False)
    assert set(sweep.search_space(given, dataset)) == set(sweep.SPACE)
    assert set(sweep.search_space(linear, dataset)) == set(sweep.SPACE) - weights  # found in every trial
    without = weights | {"regression_l2", "walk_length", "collaborative_consistency_weight"}
    assert set(sweep.search_space(CONFIG, dataset)) == set(sweep.SPACE) - without
    plain = Config(dataset=CONFIG.dataset, side_information=False)
    assert set(sweep.search_space(plain, dataset)) == {"learning_rate", "l2", "dropout", "softmax_temperature"}
    static = Config(dataset=CONFIG.dataset, self_loop=False, knowledge_graph=False)
    assert not {"correlation_neighbors", "feature_correlation", "knowledge_weight"} & set(
        sweep.search_space(static, dataset)
    )


def test_the_space_holds_where_the_search_starts():
    dataset = load(CONFIG.dataset)
    config = Config(dataset=CONFIG.dataset, correlation_neighbors=7, learning_rate=0.1, l2=0.0)
    space = sweep.search_space(config, dataset)
    assert space["correlation_neighbors"].choices == (5, 7, 10, 15, 20)
    assert space["learning_rate"].high == 0.1
    assert space["l2"] == sweep.SPACE["l2"]


def test_what_cannot_be_searched_gets_one_line(training: FakeTraining, tmp_path: Path):
    with pytest.raises(ValueError, match=r"`search` must name .*learning_rate.*: got 'width'"):
        search(tmp_path / "a", trials=1, names=("width",))
    with pytest.raises(ValueError, match="kgat chooses on test"):
        search(tmp_path / "b", trials=1, config=Config(dataset=CONFIG.dataset, protocol="kgat"))
    search(tmp_path / "c", trials=1)
    with pytest.raises(WorkdirError, match="searched is"):
        search(tmp_path / "c", trials=2, names=("l2",))
    assert json.loads((tmp_path / "c" / "study.json").read_text())["kind"] == "sweep"

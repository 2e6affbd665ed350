"""Studies: statistics worked by hand, what each study trains, resuming, and the files at the end.

Training is replaced by numbers made up from the configuration; one small study is really trained in
`test_studies_trained.py`.
"""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from slif_jax import data, studies
from slif_jax.config import Config
from slif_jax.metrics import metric_names
from slif_jax.plots import study_figure
from slif_jax.report.study import study_report
from slif_jax.studies import run as run_module
from slif_jax.studies.statistics import UserValues, holm, mean_over_seeds, mean_over_splits, paired_test
from slif_jax.studies.tables import p_text
from slif_jax.workdir import Workdir, WorkdirError

CONFIG = Config(dataset="synthetic:users=30,items=30,clusters=2,seed=1", epochs=2, topk=(10, 20))
USERS = 40


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load(CONFIG.dataset)


class FakeTraining:
    """Leaves what a run leaves; without the self-loop every user is served a little worse."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.stop_after = 1000
        self.no_cold: int | None = None  # the seed of a split in which no user has a cold item

    def __call__(self, config: Config, workdir: Path, **options: Any) -> dict[str, Any]:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((Path(workdir).name, config.seed))
        names = metric_names(config.topk)
        rng = np.random.default_rng((config.seed, config.split_seed))
        loss = 0.0 if config.self_loop else 0.1
        values = np.clip(rng.uniform(0.3, 0.5, (USERS, len(names))) - loss - config.triple_noise, 0.0, 1.0)
        cold = np.where(
            np.arange(USERS)[:, None] < (0 if config.split_seed == self.no_cold else 10), values / 2, np.nan
        )
        folder = Workdir(workdir)
        folder.path.mkdir(parents=True)
        folder.write_run_files(config, "d" * 64, None)
        test = dict(zip(names, values.mean(axis=0).tolist(), strict=True))
        result = {
            "protocol": "strict",
            "selected_on": "valid",
            "data_fingerprint": "d" * 64,
            "split_fingerprint": str(config.split_seed)[-1] * 64,
            "best_epoch": 1,
            "epochs": config.epochs,
            "stopped_early": False,
            "valid": test,
            "test": test if options.get("evaluate_test", True) else {},
            "test_interval": {name: [0.1, 0.2] for name in names},
            "test_groups": {"items": {"among_cold": {"candidates": 80 + config.split_seed % 10}}},
            "seconds": {"train": 1.0},
        }
        folder.write_json("result.json", result)
        np.savez(
            folder.path / "test_users.npz",
            user_ids=np.array([f"u{n}" for n in range(USERS)]),
            names=np.array(names),
            values=values,
            warm_item_values=values,
            cold_item_values=cold,
            among_cold_values=cold,
            counted=np.ones(USERS, np.bool_),
        )
        return result


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(run_module, "train_and_evaluate", fake)
    return fake


def users(values: list[float], ids: str = "abcdefgh") -> UserValues:
    return UserValues(np.array(list(ids[: len(values)])), np.array(values)[:, None])


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.04 times 4 3 2 1: 0.04 0.06 0.06 0.04, and no value below the one before it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([float("nan"), 0.02])[1] == pytest.approx(0.02)
    assert np.isnan(holm([float("nan")])[0])


def test_the_signed_ranks_by_hand_and_their_side():
    # Reference above row by 1 to 5 tenths for every user: all of the 2^5 signs but one give smaller ranks sums.
    row = users([0.1, 0.1, 0.1, 0.1, 0.1])
    reference = users([0.2, 0.3, 0.4, 0.5, 0.6])
    better = paired_test(reference, row, 0, alternative="greater")
    assert better.p == pytest.approx(1 / 32)
    assert better.difference == pytest.approx(-0.3)
    assert paired_test(reference, row, 0, alternative="less").p == pytest.approx(1.0)
    assert paired_test(reference, row, 0, alternative="two-sided").p == pytest.approx(2 / 32)


def test_users_are_paired_by_id_and_those_without_a_value_are_left_out():
    reference = users([0.5, 0.5, 0.5, np.nan], "abcd")
    row = UserValues(np.array(["d", "c", "b", "a"]), np.array([[0.1], [np.nan], [0.5], [0.2]]))
    test = paired_test(reference, row, 0, alternative="greater")
    assert test.users == 2
    assert test.difference == pytest.approx((0.0 - 0.3) / 2)
    assert paired_test(reference, reference, 0, alternative="greater").p == 1.0
    assert paired_test(users([np.nan]), users([np.nan]), 0, alternative="greater").users == 0


def test_a_user_is_one_observation_however_many_seeds():
    mean = mean_over_seeds([users([0.0, 1.0]), users([1.0, 1.0])])
    assert mean.values[:, 0].tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="different users"):
        mean_over_seeds([users([0.0, 1.0], "ab"), users([0.0, 1.0], "ac")])


def test_a_user_is_one_observation_however_many_splits():
    mean = mean_over_splits([users([0.0, 1.0, np.nan], "abc"), users([1.0, np.nan, 0.5], "bcd")])
    assert mean.user_ids.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(mean.values[:, 0], [0.0, 1.0, np.nan, 0.5])
    alone = users([0.2], "z")
    assert mean_over_splits([alone]) is alone


def test_every_row_is_trained_on_every_split(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    config = dataclasses.replace(CONFIG, split="ratio")
    against = [("none", dataclasses.replace(config, self_loop=False))]
    options: dict[str, Any] = {"seeds": (0, 1), "against": against}
    plan = studies.seeds(config, dataset, split_seeds=(3, 4), **options)
    assert plan.title.startswith("2 seeds on")
    assert plan.title.endswith(", 2 splits")
    study = studies.run_study(plan, tmp_path, progress="off")
    assert training.calls[:3] == [
        ("this-configuration-split3-seed0", 0),
        ("none-split3-seed0", 0),
        ("this-configuration-split3-seed1", 1),
    ]
    assert len(training.calls) == 8
    assert [(cell["split_seed"], cell["seed"]) for cell in study["cells"][:4]] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert study["arms"][0]["split_fingerprint"] == {"3": "3" * 64, "4": "4" * 64}
    assert study["rows"][0]["runs"] == len(study["rows"][0]["scores"]["recall@20"]["by_seed"]) == 4
    assert study["rows"][1]["scores"]["recall@20"]["difference"] == pytest.approx(-0.1)
    text = (tmp_path / "study.md").read_text()
    assert "over 2 splits with 2 seeds each (splits 3, 4; seeds 0, 1)." in text
    assert "Split 3333333333333333 (split 3), 4444444444444444 (split 4)." in text
    by_seed = [row["scores"]["recall@20"]["by_seed"] for row in study["rows"]]
    axes = study_figure(study).axes[0]
    assert axes.get_xlabel() == "Δ recall@20, split by split"
    lines = [np.asarray(line.get_xdata()) for line in axes.lines]
    points = next(x for x in lines if len(x) == 4)  # of the row that is tested, alone
    np.testing.assert_allclose(points, np.subtract(by_seed[1], by_seed[0]))
    page = study_report(Workdir(tmp_path), study)
    assert "data of split 4" in page
    assert "runs/&lt;row&gt;-split&lt;split&gt;-seed&lt;seed&gt;" in page
    studies.run_study(studies.seeds(config, dataset, split_seeds=(3, 4, 5), **options), tmp_path, progress="off")
    assert len(training.calls) == 12


def test_seeds_that_draw_no_split_are_refused(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    plan = studies.seeds(CONFIG, dataset, seeds=(0,), split_seeds=(3, 4))
    with pytest.raises(ValueError, match=r"changes nothing with --split=auto on synthetic.*--split=ratio"):
        studies.run_study(plan, tmp_path, progress="off")
    assert not training.calls
    one = studies.seeds(CONFIG, dataset, seeds=(0,), split_seeds=(3,))
    drawn = dataclasses.replace(CONFIG, split="ratio")
    other = studies.seeds(drawn, dataset, seeds=(0,), split_seeds=(3, 4), against=[("given", CONFIG)])
    for bad, name in ((one, "this configuration"), (other, "given")):
        with pytest.raises(ValueError, match=f"--split=auto on synthetic.*'{name}'"):
            studies.run_study(bad, tmp_path, progress="off")
    assert not list(tmp_path.iterdir())
    assert not training.calls
    for split_seeds in ((3, 3), (-1,)):
        with pytest.raises(ValueError, match="`split_seeds` must name each seed once"):
            studies.seeds(drawn, dataset, seeds=(0,), split_seeds=split_seeds)
    against = [("b", dataclasses.replace(drawn, split_seed=7))]
    with pytest.raises(ValueError, match="'b' cannot have another `split_seed`"):
        studies.seeds(drawn, dataset, seeds=(0,), split_seeds=(3, 4), against=against)


def test_cold_items_of_several_splits(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    config = dataclasses.replace(CONFIG, split="ratio", cold_items=0.2)
    plan = studies.cold_start(config, dataset, seeds=(0,), split_seeds=(3, 4))
    training.no_cold = 4
    study = studies.run_study(plan, tmp_path, progress="off")
    score = study["rows"][4]["scores"]["recall@20"]
    assert study["rows"][4]["part"] == "cold"
    assert score["by_seed"][1] is None
    assert score["mean"] == score["by_seed"][0]
    assert score["std"] is None
    assert "lists of these 83 to 84 items alone" in (tmp_path / "study.md").read_text()


def test_an_ablation_leaves_out_what_there_is(dataset: data.Dataset):
    plan = studies.ablation(CONFIG, dataset, seeds=(0,))
    by_label = {arm.label: arm.config for arm in plan.arms}
    assert list(by_label) == [
        "full",
        "no self-loop",
        "no knowledge graph",
        "no text",
        "no visual",
        "no consistency",
        "no side information (LightGCN)",
        "LightGCN as published (BPR)",
    ]
    assert by_label["no text"].modalities == ("visual",)
    assert {arm.reference for arm in plan.arms[1:]} == {"full"}
    weights = {"content likeness": 0.3, "popularity": 0.4, "regression": 0.1, "walks": 0.2}
    full = dataclasses.replace(CONFIG, regression_weight=0.1, walk_weight=0.2, content_weight=0.3)
    full = dataclasses.replace(full, popularity_weight=0.4)
    configs = {arm.label: arm.config for arm in studies.ablation(full, dataset, seeds=(0,)).arms}
    for name in weights:
        assert configs[f"no {name}"].linear_weights() == {k: v for k, v in weights.items() if k != name}
    weighing = dataclasses.replace(CONFIG, weigh_interactions=True)
    alike = "all interactions alike"  # a row where they are not
    assert alike not in {arm.label for arm in studies.ablation(weighing, dataset, seeds=(0,)).arms}
    weighed = dataclasses.replace(dataset, train_weights=np.full(len(dataset.train), 0.5, np.float32))
    configs = {arm.label: arm.config for arm in studies.ablation(weighing, weighed, seeds=(0,)).arms}
    assert configs[alike] == CONFIG
    bare = dataclasses.replace(dataset, features={}, triples=dataset.triples[:0], num_relations=0)
    assert "no content likeness" not in {arm.label for arm in studies.ablation(full, bare, seeds=(0,)).arms}
    assert [arm.label for arm in studies.ablation(CONFIG, bare, seeds=(0,)).arms] == [
        "full",
        "no self-loop",
        "no side information (LightGCN)",
        "LightGCN as published (BPR)",
    ]
    one = dataclasses.replace(CONFIG, modalities=("text",), self_loop=False, consistency=False, knowledge_graph=False)
    arms = studies.ablation(one, dataset, seeds=(0,)).arms
    bare_labels = ["full", "no text", "no side information (LightGCN)", "LightGCN as published (BPR)"]
    assert [arm.label for arm in arms] == bare_labels
    assert arms[1].config.modalities == ("none",)
    with pytest.raises(ValueError, match="noside_information"):
        studies.ablation(dataclasses.replace(CONFIG, side_information=False), dataset, seeds=(0,))


def test_a_noise_study_has_level_0_and_leaves_the_model_seed_alone(dataset: data.Dataset):
    against = [("--noself_loop", dataclasses.replace(CONFIG, self_loop=False))]
    plan = studies.noise(CONFIG, dataset, kind="triples", levels=(20, 10), seeds=(0, 1), against=against)
    assert [(arm.group, arm.x, arm.config.triple_noise) for arm in plan.arms] == [
        ("this configuration", 0.0, 0.0),
        ("this configuration", 10.0, 0.1),
        ("this configuration", 20.0, 0.2),
        ("--noself_loop", 0.0, 0.0),
        ("--noself_loop", 10.0, 0.1),
        ("--noself_loop", 20.0, 0.2),
    ]
    assert {arm.config.noise_seed for arm in plan.arms} == {CONFIG.noise_seed}
    for arm in plan.arms:
        assert arm.reference in (None, f"{arm.group}, 0 % noise")
    bare = dataclasses.replace(dataset, triples=dataset.triples[:0])
    with pytest.raises(ValueError, match="has no triples to spoil"):
        studies.noise(CONFIG, bare, kind="triples", levels=(10,), seeds=(0,))
    with pytest.raises(ValueError, match="percents from 0 to 100"):
        studies.noise(CONFIG, dataset, kind="triples", levels=(110,), seeds=(0,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (0,), "metrics": ("recall@7",)}, r"such as recall@10, recall@20: got 'recall@7'"),
        ({"seeds": (0,), "alternative": "better"}, "greater, two-sided, less"),
    ],
)
def test_bad_plans_get_one_line(dataset: data.Dataset, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        studies.seeds(CONFIG, dataset, **options)


def test_a_study_ends_in_one_table_and_one_plot(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    plan = studies.ablation(CONFIG, dataset, seeds=(0, 1))
    study = studies.run_study(plan, tmp_path / "study", progress="off", command="python -m experiments.study")
    assert len(training.calls) == 16
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {"runs", "study.json", "study.csv", "study.md", "study.tex", "study.png"}
    with (tmp_path / "study" / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    full, no_loop, no_graph = rows[0], rows[1], rows[2]
    assert full["row"] == "full"
    assert full["recall@20_p"] == ""
    assert float(no_loop["recall@20_difference"]) == pytest.approx(-0.1)
    assert float(no_loop["recall@20_p_holm"]) < 1e-6
    assert float(no_graph["recall@20_p_holm"]) == 1.0  # the made-up numbers do not know the knowledge graph
    means = [np.mean([cell["test"]["recall@20"] for cell in study["cells"] if cell["arm"] == "full"])]
    assert float(full["recall@20_mean"]) == pytest.approx(means[0])
    text = (tmp_path / "study" / "study.md").read_text()
    assert "| no self-loop | 40 | 2 |" in text
    assert "`python -m experiments.study`" in text
    assert "Data dddddddddddddddd." in text
    latex = (tmp_path / "study" / "study.tex").read_text()
    assert latex.count(r"\\") == 9
    assert r"$\pm$" in latex
    assert matplotlib.image.imread(tmp_path / "study" / "study.png").ndim == 3
    assert json.loads((tmp_path / "study" / "study.json").read_text())["done"]


def test_without_an_expectation_seeds_are_tested_two_sidedly(dataset: data.Dataset):
    for asked, expected in ((None, "two-sided"), ("greater", "greater")):  # None: the flag was not given
        assert studies.seeds(CONFIG, dataset, seeds=(0,), alternative=asked).alternative == expected
    assert studies.ablation(CONFIG, dataset, seeds=(0,), alternative=None).alternative == "greater"


def test_a_stopped_study_goes_on_with_what_is_left(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    plan = studies.seeds(CONFIG, dataset, seeds=(0, 1, 2))
    training.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        studies.run_study(plan, tmp_path, progress="off")
    assert not json.loads((tmp_path / "study.json").read_text())["done"]
    training.stop_after = 1000
    first = studies.run_study(plan, tmp_path, progress="off")
    assert [seed for _, seed in training.calls] == [0, 1, 2]
    assert studies.run_study(plan, tmp_path, progress="off") == first
    assert len(training.calls) == 3
    more = studies.seeds(
        CONFIG, dataset, seeds=(0, 1, 2, 3), against=[("b", dataclasses.replace(CONFIG, self_loop=False))]
    )
    studies.run_study(more, tmp_path, progress="off")
    assert len(training.calls) == 8


def test_other_settings_and_other_folders_are_refused(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    studies.run_study(studies.seeds(CONFIG, dataset, seeds=(0,)), tmp_path / "study", progress="off")
    other = studies.seeds(dataclasses.replace(CONFIG, width=32), dataset, seeds=(0,))
    with pytest.raises(WorkdirError, match="width is 32, was 64"):
        studies.run_study(other, tmp_path / "study", progress="off")
    with pytest.raises(WorkdirError, match="of kind 'seeds', not 'ablation'"):
        studies.run_study(studies.ablation(CONFIG, dataset, seeds=(0,)), tmp_path / "study", progress="off")
    with pytest.raises(WorkdirError, match=r"no study\.json"):
        studies.run_study(other, tmp_path / "study" / "runs", progress="off")
    assert len(training.calls) == 1


def test_cold_and_warm_items_are_rows_apart(training: FakeTraining, dataset: data.Dataset, tmp_path: Path):
    with pytest.raises(ValueError, match="cold_items"):
        studies.cold_start(CONFIG, dataset, seeds=(0,))
    plan = studies.cold_start(dataclasses.replace(CONFIG, cold_items=0.2), dataset, seeds=(0,))
    study = studies.run_study(plan, tmp_path, progress="off")
    assert [(row["part"], row["users"]) for row in study["rows"]] == [
        (part, users) for part, users in (("all", 40), ("warm", 40), ("cold", 10), ("among_cold", 10)) for _ in range(2)
    ]
    assert study["rows"][0]["scores"]["recall@20"]["std"] is None
    written = (tmp_path / "study.md").read_text()
    assert "lists of these 86 items alone, of which chance would find 0.2326 (recall@20)" in written
    assert matplotlib.image.imread(tmp_path / "study.png").ndim == 3


def test_progress_names_the_cell_and_what_is_left(
    training: FakeTraining, dataset: data.Dataset, tmp_path: Path, capsys
):
    studies.run_study(studies.seeds(CONFIG, dataset, seeds=(0, 1)), tmp_path, progress="line")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cell 1 of 2: this configuration, seed 0"
    assert lines[1].startswith("  test recall@20 0.")
    assert "1 left, about 0:00:0" in lines[1]
    assert lines[3].endswith("0 left")


def test_small_p_values_are_not_zero():
    assert [p_text(p) for p in (None, 1e-9, 0.01234)] == ["-", "<0.0001", "0.0123"]

"""What a study runs: arms (configurations to compare) and draws. A cell is one arm with one draw: one training run."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from slif_jax.config import CONTENT, Config
from slif_jax.data import Dataset
from slif_jax.graphs import side_views, used_modalities, uses_knowledge

NOISE_KINDS = {
    "interactions": "interaction_noise",
    "triples": "triple_noise",
    "features": "feature_noise",
    "modalities": "missing_modalities",
}
LIGHT_GCN: dict[str, Any] = {"side_information": False, "loss": "bpr", "dropout": 0.0, "parameter_momentum": 0.0}
"""LightGCN with the loss of its paper, and nothing that this project adds."""
_ANY_SPLIT = Config().split_seed
ALTERNATIVES = ("greater", "two-sided", "less")


@dataclasses.dataclass(frozen=True)
class Draw:
    """What chance decides in a cell.

    Attributes:
      seed: of the model.
      split_seed: of the split; None leaves that of the arm.
    """

    seed: int
    split_seed: int | None = None

    def __str__(self) -> str:
        return f"seed {self.seed}" if self.split_seed is None else f"split {self.split_seed}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One configuration of a study.

    Attributes:
      label: its name in the table, unique in the study.
      config: what is trained; its seeds are replaced by those of each draw.
      reference: label of the arm that it is tested against; None for an arm that others are tested against.
      group: arms of a group are one line of a plot against `x`.
      x: where it stands on that line; None where the study has no such axis.
    """

    label: str
    config: Config
    reference: str | None = None
    group: str = ""
    x: float | None = None

    def run_name(self, draw: Draw) -> str:
        """Folder of a cell below `runs/`."""
        split = "" if draw.split_seed is None else f"split{draw.split_seed}-"
        return f"{re.sub(r'[^a-z0-9]+', '-', self.label.lower()).strip('-')}-{split}seed{draw.seed}"

    def config_of(self, draw: Draw) -> Config:
        """The configuration of a cell."""
        drawn = {"seed": draw.seed} | ({} if draw.split_seed is None else {"split_seed": draw.split_seed})
        return dataclasses.replace(self.config, **drawn)

    def settings(self) -> dict[str, Any]:
        """The configuration without its seed, as JSON types."""
        return {name: value for name, value in self.config.to_dict().items() if name != "seed"}

    def config_hash(self) -> str:
        """SHA-256 of `settings`."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole study.

    Attributes:
      kind: 'ablation', 'noise', 'cold_start' or 'seeds'.
      title: heading of table and plot.
      arms: rows of the table; a reference stands before what is tested against it.
      seeds: of the model; every arm is trained with each.
      metrics: names such as 'recall@20'; tested ones.
      alternative: of the paired tests, of reference against row: 'greater' says that the reference is better.
      parts: which relevant items count, keys of `plots.PART_NAMES`.
      split_seeds: of the split, where it is drawn; every arm is trained on each split with each seed. None of them:
        on the one split that its configuration has.
      x_label: of the plot's axis, where arms have an `x`.
    """

    kind: str
    title: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    alternative: str = "greater"
    parts: tuple[str, ...] = ("all",)
    x_label: str = ""
    split_seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must name at least one seed, each once: got {list(self.seeds)}.")
        if len(set(self.split_seeds)) < len(self.split_seeds) or any(seed < 0 for seed in self.split_seeds):
            raise ValueError(f"`split_seeds` must name each seed once, none below 0: got {list(self.split_seeds)}.")
        if self.alternative not in ALTERNATIVES:
            raise ValueError(f"`alternative` must be one of {', '.join(ALTERNATIVES)}: got '{self.alternative}'.")
        names = [arm.run_name(Draw(0)) for arm in self.arms]
        for arm, name in zip(self.arms, names, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"Two arms of the study are called '{arm.label}'. Give each another name.")
        for metric in self.metrics:
            known = [f"{metric.split('@')[0]}@{k}" for k in self.arms[0].config.topk]
            if metric not in known:
                raise ValueError(f"`metrics` must be such as {', '.join(known)}: got '{metric}'. See --topk.")

    @property
    def draws(self) -> tuple[Draw, ...]:
        """By split, then by seed."""
        return tuple(Draw(seed, split) for split in self.split_seeds or (None,) for seed in self.seeds)


def default_metrics(config: Config) -> tuple[str, ...]:
    """The metric that picks the epoch, and NDCG at the same cut-off."""
    beside = f"ndcg@{config.select_on.split('@')[1]}"
    return tuple(dict.fromkeys((config.select_on, beside)))


def ablation(config: Config, dataset: Dataset, *, seeds: Sequence[int], **options: Any) -> Plan:
    """The whole method, and the method without each of its parts that this configuration and these data have.

    Args:
      config: the whole method.
      dataset: its data.
      seeds: seeds of the model.
      **options: `metrics`, `alternative`, `split_seeds` of `Plan`.

    Returns:
      The plan; every row is tested against 'full'.

    Raises:
      ValueError: if the configuration has nothing to leave out.
    """
    without: dict[str, dict[str, Any]] = {}
    modalities = used_modalities(dataset, config)
    if config.uses_correlation() and config.side_information:
        without["no self-loop"] = {"self_loop": False}
    if uses_knowledge(dataset, config):
        without["no knowledge graph"] = {"knowledge_graph": False}
    for name in modalities:
        left = tuple(other for other in modalities if other != name)
        without[f"no {name}"] = {"modalities": left or ("none",)}
    if config.contrasted_views(side_views(dataset, config)):
        without["no consistency"] = {"consistency": False}
    if config.weighs_interactions() and dataset.train_weights is not None:
        without["all interactions alike"] = {"weigh_interactions": False}
    for name, weight in (
        ("regression", "regression_weight"),
        ("walks", "walk_weight"),
        (CONTENT, "content_weight"),
        ("popularity", "popularity_weight"),
    ):
        if name in config.linear_weights() and (name != CONTENT or modalities):
            without[f"no {name}"] = {weight: 0.0}
    if config.side_information:
        without["no side information (LightGCN)"] = {"side_information": False}
        if config.loss != "bpr":
            without["LightGCN as published (BPR)"] = LIGHT_GCN
    if not without:
        raise ValueError("An ablation leaves parts out, and --noside_information has left out all of them already.")
    arms = [Arm("full", config)]
    arms += [Arm(label, dataclasses.replace(config, **parts), "full") for label, parts in without.items()]
    return _plan("ablation", f"Ablation on {dataset.name}", arms, seeds, config, options)


def noise(
    config: Config,
    dataset: Dataset,
    *,
    kind: str,
    levels: Sequence[float | int],
    seeds: Sequence[int],
    against: Sequence[tuple[str, Config]] = (),
    **options: Any,
) -> Plan:
    """The same configuration on training data with more and more noise.

    Args:
      config: what is trained.
      dataset: its data, for the heading.
      kind: a key of `NOISE_KINDS`.
      levels: percents of noise, from 0 to 100; 0 is always run.
      seeds: seeds of the model; the noise has `config.noise_seed`.
      against: labels and configurations of further curves.
      **options: `metrics`, `alternative`, `split_seeds` of `Plan`.

    Returns:
      The plan; every level is tested against level 0 of the same configuration.

    Raises:
      ValueError: on an unknown kind, a bad level, or where the data have nothing to spoil.
    """
    if kind not in NOISE_KINDS:
        raise ValueError(f"`noise` must be one of {', '.join(NOISE_KINDS)}: got '{kind}'.")
    of_kind = {"interactions": dataset.train, "triples": dataset.triples}
    if not len(of_kind.get(kind, dataset.features)):
        raise ValueError(f"{dataset.name} has no {kind} to spoil. Choose another --noise.")
    percents = sorted({0.0, *map(float, levels)})
    if len(percents) < 2 or percents[0] < 0 or percents[-1] > 100:
        raise ValueError(f"`levels` must be percents from 0 to 100, one above 0: got {list(levels)}.")
    arms = []
    for name, settings in [("this configuration", config), *against]:
        shown = f"{name}, " if against else ""
        for level in percents:
            config_of_level = dataclasses.replace(settings, **{NOISE_KINDS[kind]: level / 100})
            reference = f"{shown}{percents[0]:g} % noise" if level else None
            arms.append(Arm(f"{shown}{level:g} % noise", config_of_level, reference, name, level))
    what = "missing modalities" if kind == "modalities" else f"noise in {kind}"
    title = f"{what.capitalize()} of {dataset.name}"
    return _plan("noise", title, arms, seeds, config, {"x_label": f"{what}, percent", **options})


def cold_start(
    config: Config,
    dataset: Dataset,
    *,
    seeds: Sequence[int],
    against: Sequence[tuple[str, Config]] = (),
    **options: Any,
) -> Plan:
    """Some items without any training interaction: what are they worth with and without side information?

    Args:
      config: what is trained; `cold_items` is the share of the items that lose their training interactions.
      dataset: its data, for the heading.
      seeds: seeds of the model.
      against: labels and configurations of the other arms; none: the same without side information.
      **options: `metrics`, `alternative`, `split_seeds` of `Plan`.

    Returns:
      The plan: all, warm and cold items apart.

    Raises:
      ValueError: if no items would be cold.
    """
    if not config.cold_items:
        raise ValueError("`cold_items` must be above 0 for --study=cold_start: got 0.0. Try --cold_items=0.1.")
    others = against or [("no side information (LightGCN)", dataclasses.replace(config, side_information=False))]
    first = Arm("this configuration", config)
    arms = [first, *(Arm(*other, first.label) for other in others)]
    title = f"{config.cold_items * 100:g} % of the items of {dataset.name} cold"
    return _plan("cold_start", title, arms, seeds, config, {"parts": ("all", "warm", "cold", "among_cold"), **options})


def seeds(
    config: Config,
    dataset: Dataset,
    *,
    seeds: Sequence[int],
    against: Sequence[tuple[str, Config]] = (),
    **options: Any,
) -> Plan:
    """One configuration over seeds, and splits, alone or against others.

    Args:
      config: what is trained.
      dataset: its data, for the heading.
      seeds: seeds of the model.
      against: labels and configurations of the others.
      **options: `metrics`, `alternative`, `split_seeds` of `Plan`; without an expectation the alternative is two-sided.

    Returns:
      The plan.
    """
    first = Arm("this configuration", config)
    arms = [first, *(Arm(*other, first.label) for other in against)]
    title = f"{counted(len(seeds), 'seed')} on {dataset.name}"
    return _plan(
        "seeds", title, arms, seeds, config, options | {"alternative": options.get("alternative") or "two-sided"}
    )


def counted(count: int, what: str) -> str:
    """'1 seed', '5 seeds'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _plan(
    kind: str, title: str, arms: Sequence[Arm], seeds: Sequence[int], config: Config, options: dict[str, Any]
) -> Plan:
    given = {name: value for name, value in options.items() if value}
    if splits := given.get("split_seeds"):
        own = [arm.label for arm in arms if arm.config.split_seed != config.split_seed]
        if own:
            raise ValueError(f"Every row has the splits of `split_seeds`: '{own[0]}' cannot have another `split_seed`.")
        # No run has this one: it is no setting of a row.
        arms = [dataclasses.replace(a, config=dataclasses.replace(a.config, split_seed=_ANY_SPLIT)) for a in arms]
        title = f"{title}, {counted(len(splits), 'split')}"
    return Plan(kind, title, tuple(arms), tuple(seeds), **{"metrics": default_metrics(config), **given})

"""One frozen dataclass with every setting of the method, and every default written once."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from slif_jax.data.raw import SPLIT_RULES
from slif_jax.data.registry import READERS
from slif_jax.metrics import METRIC_NAMES
from slif_jax.protocols import PROTOCOLS, Protocol

CONTENT = "content likeness"
"""Name of the linear model of the features; a modality may well be called 'content'."""
GRAPH_NAMES = ("interactions", "knowledge", "features")
MISSING_POLICIES = ("neighbours", "mean", "zero", "learned")
# The fields that decide what data a run sees: those of `prepare.load_dataset`.
DATA_FIELDS = (
    "dataset",
    "format",
    "split",
    "k_core",
    "min_rating",
    "split_seed",
    "cold_items",
    "interaction_noise",
    "triple_noise",
    "feature_noise",
    "missing_modalities",
    "noise_seed",
)


def _setting(default: Any, text: str, **metadata: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **metadata})


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, on what, and how it is judged.

    Two runs with equal configs on the same kind of machine give equal numbers. Each field is also a flag of
    `experiments.train`; the `help` in its metadata is that flag's text. `patience`, `eval_every` and `select_on` take
    the value of the protocol where they are 0 or 'protocol'; once made, a `Config` holds that value.

    Raises:
      ValueError: where a value is outside its range; the message names the field, the rule and the value.
    """

    # Data
    dataset: str = _setting("ml-100k", "'ml-100k' (fetched once), 'synthetic[:key=value,...]', or a folder.")
    format: str = _setting("auto", "Format of the folder; auto: found by its files.", choices=("auto", *READERS))
    split: str = _setting(
        "auto",
        "auto: the split that the data bring, else ratio; or name one. ratio: 80/10/10 per user; leave_one_out; "
        "time_user: the last ones per user; time_global: at two moments for everybody.",
        choices=SPLIT_RULES,
    )
    k_core: int = _setting(0, "Leave out users and items with fewer interactions, repeatedly; 0: keep all.", minimum=0)
    min_rating: float = _setting(0.0, "Leave out interactions rated below; 0: keep all.", minimum=0.0)
    split_seed: int = _setting(2026, "Seed of the split where one is drawn; apart from --seed.", minimum=0)
    seed: int = _setting(0, "Seed of initial values, batches and negatives.", minimum=0)

    # Data made worse on purpose, for studies; validation and test stay as they are
    cold_items: float = _setting(
        0.0, "Share of the items to take out of train (by --split_seed), in [0, 1).", minimum=0.0, below=1.0
    )
    interaction_noise: float = _setting(
        0.0, "Random training interactions to add, by training interactions, in [0, 1].", minimum=0.0, maximum=1.0
    )
    triple_noise: float = _setting(
        0.0, "Share of the triples that get a random tail, in [0, 1].", minimum=0.0, maximum=1.0
    )
    feature_noise: float = _setting(
        0.0, "Share of the items whose features change places, in [0, 1].", minimum=0.0, maximum=1.0
    )
    missing_modalities: float = _setting(
        0.0, "Share of the items that lose a modality, drawn for each one anew, in [0, 1].", minimum=0.0, maximum=1.0
    )
    noise_seed: int = _setting(2026, "Seed of the noise, apart from --seed.", minimum=0)

    # Switches of the method
    self_loop: bool = _setting(True, "Feed item vectors of the last epoch back as a correlation graph.")
    correlation_into: tuple[str, ...] = _setting(
        GRAPH_NAMES, "Graphs that receive the correlation graph.", choices=GRAPH_NAMES
    )
    knowledge_graph: bool = _setting(True, "Use the knowledge graph.")
    modalities: tuple[str, ...] = _setting(("all",), "Modalities to use: 'all', 'none', or names.")
    missing_features: str = _setting(
        "neighbours",
        "An item without a modality: takes the 'neighbours' that its other modalities give it, gets the 'mean' of the "
        "others' features, 'zero', or a 'learned' vector.",
        choices=MISSING_POLICIES,
    )
    consistency: bool = _setting(
        True, "Semantic consistency: contrast the own embedding of items and users with their views."
    )
    side_information: bool = _setting(
        True, "False turns off features, knowledge graph, consistency, self-loop and linear models: plain LightGCN."
    )

    # Model
    width: int = _setting(64, "Width d of every vector.", minimum=1)
    precision: str = _setting(
        "float32",
        "bf16: vectors go over the graphs, and between devices, in bfloat16; sums and parameters stay float32.",
        choices=("float32", "bf16"),
    )
    gather_blocks: int = _setting(
        1,
        "On a mesh, the columns of other devices' rows are fetched in so many blocks: less memory, more exchanges.",
        minimum=1,
    )
    interaction_layers: int = _setting(2, "Layers over the interaction graph.", minimum=0)
    side_weight: float = _setting(
        1.0, "Weight of what the modality and knowledge views add to the collaborative one.", minimum=0.0
    )
    feature_layers: int = _setting(1, "Layers over each item feature graph.", minimum=1)
    knowledge_layers: int = _setting(2, "Hops over the knowledge graph.", minimum=1)
    cold_item_length: float = _setting(
        0.85,
        "Length of the vectors of items without training interactions, by that of others, and how far their scores by "
        "linear models go from the mean (0) to that of their neighbours (1); more recommends them more.",
        above=0.0,
    )
    feature_neighbors: int = _setting(10, "Neighbours per item in a feature graph.", minimum=1)

    # Self-loop
    correlation_neighbors: int = _setting(10, "Neighbours k per item in the correlation graph.", minimum=1)
    correlation_by: str = _setting(
        "scores",
        "Items are near by the correlation of the scores that users give them, or the cosine of their 'vectors'.",
        choices=("scores", "vectors"),
    )
    correlation_mutual: bool = _setting(
        False, "Keep a correlation edge only if each of its items is among the k nearest of the other."
    )
    correlation_recall: float = _setting(
        1.0, "Share of those neighbours that a TPU must find; below 1 it searches faster.", above=0.0, maximum=1.0
    )
    correlation_start: int = _setting(3, "Epochs to train before the first correlation graph is used.", minimum=0)
    correlation_warm_up: str = _setting(
        "empty",
        "The correlation graph before that: 'empty', or the 'features' graphs joined.",
        choices=("empty", "features"),
    )
    correlation_period: int = _setting(1, "Epochs between two rebuilds.", minimum=1)
    correlation_momentum: float = _setting(
        0.0, "Share kept of what was fed back before, in [0, 1).", minimum=0.0, below=1.0
    )
    interaction_correlation: float = _setting(0.5, "Weight gamma of correlation edges among interactions.", minimum=0.0)
    knowledge_correlation: float = _setting(
        1.0, "Prior of a correlation edge next to a triple in the attention.", minimum=0.0, maximum=1e6
    )
    feature_correlation: float = _setting(
        0.3, "Share beta of the correlation graph in each feature graph, in [0, 1].", minimum=0.0, maximum=1.0
    )
    learn_feature_correlation: bool = _setting(False, "Learn beta per modality, starting from --feature_correlation.")

    # Training interactions
    weigh_interactions: bool = _setting(
        False,
        "Training interactions that chance alone may have made count less, in losses, graphs and linear models; how "
        "many there are shows in how badly takers of rare items can be predicted. For noisy data; nothing changes "
        "where there is no sign of chance, nor with --noside_information.",
    )

    # Linear models of the interactions, and of features, beside the vectors
    tune_linear_weights: bool = _setting(
        True,
        "Tune what the linear models below weigh on validation, at every evaluation; the weights given count as 100 "
        "users there. False: these stay, as they do where fewer than 100 users tell, and where all are 0.",
    )
    regression_weight: float = _setting(
        0.0,
        "Weight of an item-item regression (EASE) in the scores: cosines that one standard deviation of it is worth, "
        "with --loss=bpr lengths of the user's vector; 0: none. For long histories.",
        minimum=0.0,
    )
    regression_rank: int = _setting(256, "Singular vectors it is made of.", minimum=1)
    regression_l2: float = _setting(200.0, "Its lambda; more for denser data.", above=0.0)
    regression_user_power: float = _setting(0.0, "Users count by their interactions to minus twice this.", minimum=0.0)
    walk_weight: float = _setting(
        0.0,
        "Weight of walks from item to item over the interactions in the scores, as --regression_weight; 0: none. For "
        "short histories.",
        minimum=0.0,
    )
    walk_rank: int = _setting(32, "Eigenvectors they are made of.", minimum=1)
    walk_length: int = _setting(3, "Steps from item to item.", minimum=1)
    walk_user_power: float = _setting(0.7, "Users count by their interactions to minus twice this.", minimum=0.0)
    walk_item_power: float = _setting(0.3, "Items passed through likewise, first and last ones once.", minimum=0.0)
    content_weight: float = _setting(
        0.0,
        "Weight of the likeness to the user's items in the raw features of all modalities in the scores, as "
        "--regression_weight; 0: none. For features that say what an item is, such as texts; none without features.",
        minimum=0.0,
    )
    content_rank: int = _setting(128, "Principal columns of the features it is made of.", minimum=1)
    popularity_weight: float = _setting(
        0.0,
        "Weight of the logarithm of an item's training interactions in the scores, as --regression_weight; 0: none. "
        "Cosines forget how much an item is taken.",
        minimum=0.0,
    )

    # Losses
    loss: str = _setting(
        "softmax",
        "'softmax' over negatives that the batch shares, by cosine; 'bpr' over the inner product with each one's own.",
        choices=("softmax", "bpr"),
    )
    softmax_negatives: int = _setting(1024, "softmax: negatives per step, shared by the batch.", minimum=1)
    softmax_temperature: float = _setting(0.2, "softmax: what the cosines are divided by.", minimum=1e-3)
    softmax_focus: float = _setting(
        0.0,
        "softmax: above 0, positives near the top of their user's list count more, the rest less; the width of that "
        "border, in units of cosine over temperature.",
        minimum=0.0,
    )
    num_negatives: int = _setting(1, "bpr: negatives per positive, never a training item of that user.", minimum=1)
    dropout: float = _setting(
        0.1,
        "Share of the entries of a user's final vector that training leaves out, in [0, 1).",
        minimum=0.0,
        below=1.0,
    )
    consistency_weight: float = _setting(
        0.03, "Weight lambda_c of the contrast with the views of modalities and knowledge, their mean.", minimum=0.0
    )
    collaborative_consistency_weight: float = _setting(
        0.0,
        "Weight of the contrast with the collaborative view; vectors spread out, for use beside --walk_weight.",
        minimum=0.0,
    )
    consistency_temperature: float = _setting(0.2, "Temperature of both contrasts.", minimum=1e-3)
    consistency_batch: int = _setting(256, "Rows of a batch that take part in them.", minimum=2)
    knowledge_weight: float = _setting(0.1, "Weight lambda_kg of the translation loss on triples.", minimum=0.0)
    knowledge_batch: int = _setting(2048, "Triples per step.", minimum=1)
    l2: float = _setting(1e-4, "Weight lambda_2 on the squared embeddings of a batch.", minimum=0.0)

    # Training
    epochs: int = _setting(200, "Epochs at most. A resumed run may ask for more.", minimum=1)
    batch_size: int = _setting(4096, "Interactions per step.", minimum=1)
    accumulate_steps: int = _setting(
        1, "Steps whose gradients are averaged for one update: larger batches in the memory of small ones.", minimum=1
    )
    parameter_momentum: float = _setting(
        0.9,
        "Share of the older parameters that their moving average keeps per epoch, in [0, 1); what is evaluated, fed "
        "back and served is the average. 0: the parameters themselves.",
        minimum=0.0,
        below=1.0,
    )
    learning_rate: float = _setting(4e-3, "Adam's step size.", above=0.0)
    clip_norm: float = _setting(
        0.0, "Scale each step's gradient down to this Euclidean norm over all parameters; 0: leave it.", minimum=0.0
    )
    patience: int = _setting(
        0, "Evaluations without a new best before training stops; 0: as --protocol says (strict: 30).", minimum=0
    )
    eval_every: int = _setting(
        0, "Epochs between two evaluations; 0: as --protocol says (strict: 1). The last epoch is always one.", minimum=0
    )

    # Evaluation
    protocol: str = _setting(
        "strict", "Rules of evaluation and of the choice of the epoch (docs/protocols.md).", choices=tuple(PROTOCOLS)
    )
    topk: tuple[int, ...] = _setting((5, 10, 20, 50), "Cut-offs K of the metrics.", minimum=1)
    select_on: str = _setting(
        "protocol", "Metric that picks the epoch; 'protocol': as --protocol says (strict: recall@20)."
    )
    select_over: int = _setting(
        1,
        "Evaluations, an epoch's own and those before it, whose mean picks the epoch, so that hardly one is picked for "
        "its luck; the first ones count only if there are no more.",
        minimum=1,
    )
    activity_groups: int = _setting(4, "Groups of users by training interactions, reported apart.", minimum=1)
    eval_block: int = _setting(2048, "Users ranked at a time.", minimum=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(field.default, tuple) != isinstance(value, tuple):
                raise ValueError(f"`{field.name}` must be such as {field.default!r}: got {value!r}.")
            example = field.default[0] if isinstance(field.default, tuple) else field.default
            for item in value if isinstance(value, tuple) else (value,):
                _check_type(field.name, item, example)
                _check(field.name, item, field.metadata)
        if not self.topk or len(set(self.topk)) < len(self.topk):
            raise ValueError(f"`topk` must name at least one cut-off, each once: got {self.topk}.")
        if self.width % self.gather_blocks:
            raise ValueError(f"`width` {self.width} must be a multiple of `gather_blocks`: got {self.gather_blocks}.")
        preset = PROTOCOLS[self.protocol]
        for name, unset in (("patience", 0), ("eval_every", 0), ("select_on", "protocol")):
            if getattr(self, name) == unset:
                object.__setattr__(self, name, getattr(preset, name))
        metrics = [f"{name}@{k}" for name in METRIC_NAMES for k in self.topk]
        if self.select_on not in metrics:
            raise ValueError(f"`select_on` must be one of {', '.join(metrics)}: got '{self.select_on}'. Set both.")

    def rules(self) -> Protocol:
        """The protocol, with what this configuration changes in it."""
        return dataclasses.replace(
            PROTOCOLS[self.protocol],
            patience=self.patience,
            eval_every=self.eval_every,
            select_on=self.select_on,
            select_over=self.select_over,
        )

    def correlates(self, graph: str) -> bool:
        """Whether the correlation graph enters `graph`, one of `GRAPH_NAMES`."""
        return self.self_loop and self.side_information and graph in self.correlation_into

    def uses_correlation(self) -> bool:
        """Whether any graph receives the correlation graph."""
        return any(self.correlates(graph) for graph in GRAPH_NAMES)

    def correlates_scores(self) -> bool:
        """Whether the correlation graph compares items by the scores that users give them."""
        return self.uses_correlation() and self.correlation_by == "scores"

    def contrasted_views(self, sides: Sequence[str]) -> dict[str, float]:
        """Weights of the views that consistency contrasts with own embeddings, by name; `sides` are those there are."""
        if not (self.consistency and self.side_information):
            return {}
        weights = {name: self.consistency_weight / len(sides) for name in sides}
        weights["collaborative"] = self.collaborative_consistency_weight
        return {name: weight for name, weight in weights.items() if weight > 0}

    def weighs_interactions(self) -> bool:
        """Whether training interactions count as they are credible."""
        return self.weigh_interactions and self.side_information

    def linear_weights(self) -> dict[str, float]:
        """Weights of the linear models that scores have a part of, by name."""
        weights = {
            CONTENT: self.content_weight,
            "popularity": self.popularity_weight,
            "regression": self.regression_weight,
            "walks": self.walk_weight,
        }
        return {name: weight for name, weight in weights.items() if weight > 0 and self.side_information}

    def tunes_linear_weights(self) -> bool:
        """Whether the weights of linear models are tuned on validation."""
        return self.tune_linear_weights and bool(self.linear_weights())

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`; missing fields take their default.

        Raises:
          ValueError: on a name that is no field, with the closest one.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"Config has no field '{name}'.{hint}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


_RULES = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "above": ("above", lambda value, bound: value > bound),
    "below": ("below", lambda value, bound: value < bound),
}


def _check_type(name: str, value: Any, example: Any) -> None:
    kinds = {bool: bool, int: int, float: int | float, str: str}
    if not isinstance(value, kinds[type(example)]) or (isinstance(value, bool) and not isinstance(example, bool)):
        raise ValueError(f"`{name}` must be such as {example!r}: got {value!r}.")
    if isinstance(value, int) and abs(value) >= 2**31:
        raise ValueError(f"`{name}` must be below 2,147,483,648: got {value}.")


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}: got '{value}'.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number: got {value}.")
    for rule, (words, holds) in _RULES.items():
        if rule in metadata and not holds(value, metadata[rule]):
            raise ValueError(f"`{name}` must be {words} {metadata[rule]}: got {value}.")

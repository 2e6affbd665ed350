"""Evaluation protocols: every rule that decides which number the same scores give, in one dataclass, and four presets.

The rules of the presets are those of the programs they are named after, as they stand in their own files;
docs/protocols.md gives them side by side, with what the same scores are worth under each. Host only: no jax.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

MASKS = ("train", "train+valid")
CANDIDATES = ("all", "train", "listed")
IDEALS = ("reachable", "found")
TIES = ("lower", "higher", "shuffled")
COLD_USERS = ("apart", "drop", "count")
SELECTION_PARTS = ("valid", "test")
_MOST_DIGITS = 15  # a double has no more
# Rules that pick an epoch; the others say how it is measured.
SELECTION_RULES = ("ties_improve", "patience", "eval_every", "select_part", "select_on", "select_over")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The rules of an evaluation and of the choice of an epoch.

    R is the number of relevant items of a user, K a cut-off, K* the length of the ranked list. How interactions were
    split is no rule of a protocol: it belongs to the data, and every result carries the hash of the split.

    Attributes:
      name: of the preset that the rules started from.
      mask: at test, what a user cannot be recommended: 'train', or 'train+valid'. At validation it is always train.
      mask_own_positives: whether an item that is masked *and* relevant stays masked. Matters where splits overlap.
      candidates: 'all' item ids, those seen in 'train', or 'listed' ones, which are then named to `ranking_task`.
      ideal: the ideal of NDCG@K: min(R, K) hits ('reachable'), or the hits that were 'found' among the first K*, at
        most K of them.
      list_length: K* at least; the largest cut-off where that is longer.
      dedup: whether a relevant item that the data repeat counts once in R.
      ties: of two equal scores the item with the 'lower' or the 'higher' id comes first, or, 'shuffled', that which
        does in one order of all items, drawn once and for all: ids may tell what is popular.
      cold_users: users without training interactions are reported 'apart' from the means, left out ('drop'), or
        'count' in them.
      round_digits: decimals to which means are rounded *before* an epoch is chosen; None does not round.
      ties_improve: whether an evaluation equal to the best so far is a new best (>=), or not (>).
      patience: evaluations without a new best after which training stops.
      eval_every: epochs between two evaluations.
      select_part: the part that picks the epoch, 'valid' or 'test'. Picking on test makes the result an optimistic one.
      select_on: the metric that picks it.
      select_over: evaluations, an epoch's own and those before it, whose mean is what picks it; rounded like means.
    """

    name: str
    mask: str = "train+valid"
    mask_own_positives: bool = True
    candidates: str = "all"
    ideal: str = "reachable"
    list_length: int = 1
    dedup: bool = True
    ties: str = "lower"
    cold_users: str = "apart"
    round_digits: int | None = None
    ties_improve: bool = False
    patience: int = 30
    eval_every: int = 1
    select_part: str = "valid"
    select_on: str = "recall@20"
    select_over: int = 1

    def __post_init__(self) -> None:
        choices = {
            "mask": MASKS,
            "candidates": CANDIDATES,
            "ideal": IDEALS,
            "ties": TIES,
            "cold_users": COLD_USERS,
            "select_part": SELECTION_PARTS,
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ValueError(f"`{field}` must be one of {', '.join(known)}: got '{getattr(self, field)}'.")
        for field in ("list_length", "patience", "eval_every", "select_over"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 1: got {getattr(self, field)}.")
        if self.round_digits is not None and not 0 <= self.round_digits <= _MOST_DIGITS:
            raise ValueError(f"`round_digits` must be from 0 to {_MOST_DIGITS}, or none: got {self.round_digits}.")

    def changes(self) -> dict[str, Any]:
        """The rules that differ from the preset of this name; all of them where there is no such preset."""
        preset = PROTOCOLS.get(self.name)
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if preset is None or getattr(self, field.name) != getattr(preset, field.name)
        }

    def label(self) -> str:
        """The name to print beside every number: 'mmrec', or 'mmrec with patience=5' where a rule was changed."""
        changes = ", ".join(f"{name}={value}" for name, value in self.changes().items() if name != "name")
        return f"{self.name} with {changes}" if changes else self.name

    def better(self, value: float, best: float) -> bool:
        """Whether a value of the selection metric is a new best."""
        return value >= best if self.ties_improve else value > best


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("strict"),
        # One model: mask train alone, at validation and at test; counts repeated rows; 21 evaluations without a gain.
        Protocol(
            "mmrec",
            mask="train",
            list_length=50,
            dedup=False,
            cold_users="drop",
            round_digits=4,
            patience=21,
        ),
        # Full ranking with the defaults of its configuration; patience 10 must be exceeded.
        Protocol(
            "recbole",
            mask_own_positives=False,
            cold_users="count",
            round_digits=4,
            ties_improve=True,
            patience=11,
            select_on="mrr@10",
        ),
        # Cut-offs up to 100, and the epoch is chosen on test.
        Protocol(
            "kgat",
            mask="train",
            ideal="found",
            list_length=100,
            cold_users="count",
            ties_improve=True,
            patience=10,
            eval_every=10,
            select_part="test",
        ),
    )
}


def with_rules(name: str, changes: Mapping[str, str]) -> Protocol:
    """A preset with some rules changed, as a command line writes them.

    Args:
      name: of the preset.
      changes: by field of `Protocol`, its value as text; 'none' stands for None, 'true' and 'false' for a bool.

    Returns:
      The protocol; `label` says what was changed.

    Raises:
      ValueError: on an unknown preset or rule, or a value that does not fit.

    Example:
      >>> from slif_jax import protocols
      >>> protocols.with_rules("mmrec", {"patience": "5"}).label()
      'mmrec with patience=5'
    """
    if name not in PROTOCOLS:
        raise ValueError(f"Unknown protocol '{name}'. Known: {', '.join(PROTOCOLS)}.")
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Protocol) if field.name != "name"}
    values: dict[str, Any] = {}
    for rule, text in changes.items():
        if rule not in kinds:
            raise ValueError(f"Unknown rule '{rule}'. Known: {', '.join(kinds)}.")
        values[rule] = _from_text(rule, text, kinds[rule])
    return dataclasses.replace(PROTOCOLS[name], **values)


def _from_text(rule: str, text: str, kind: str) -> Any:
    if "bool" in kind:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"`{rule}` must be true or false: got '{text}'.")
        return text.lower() == "true"
    if "None" in kind and text.lower() == "none":
        return None
    if "int" in kind:
        if not text.isdecimal():
            raise ValueError(f"`{rule}` must be a whole number: got '{text}'.")
        return int(text)
    return text

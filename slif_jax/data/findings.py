"""What a reader repairs or notices: one `note` for each kind of thing, a warning or an entry of a list.

    with findings.collect() as notes:
        dataset = data.load("path/to/folder")
    for finding in notes:
        print(finding.level, finding.kind, finding.count, finding.message)

Without `collect`, a finding of level 'warning' becomes one `DataWarning`, and a 'remark' is dropped: it changes nothing
that is trained. What makes data unusable is no finding but a `DataError`.
"""

import contextlib
import contextvars
import dataclasses
import warnings
from collections.abc import Iterator

# Every kind, its level, and what it means. Warnings: something was dropped, ignored or chosen for the user.
KINDS: dict[str, tuple[str, str]] = {
    "duplicates": ("warning", "the same user and item in several rows of a split: counted once"),
    "several_splits": ("warning", "a pair in more than one split: kept in the first of train, valid, test"),
    "unknown_labels": ("warning", "rows whose split label is none of the known ones: left out"),
    "labels_ignored": ("remark", "the data bring a split, and another one was asked for"),
    "repeated_triples": ("warning", "the same triple more than once: counted once"),
    "overwritten_links": ("warning", "an item or entity linked more than once: the last row counts"),
    "unknown_entities": ("warning", "triples with entities that the table of entities does not name"),
    "unknown_items": ("warning", "names, features or masks of items that no interaction has: left out"),
    "several_files": ("warning", "more files than this format has: the ones named in the message are not read"),
    "float64_features": ("remark", "features stored as float64: read as float32"),
    "windows_line_ends": ("remark", "lines that end in CR LF"),
    "byte_order_mark": ("remark", "a byte order mark before the first line"),
    "spaces": ("remark", "spaces around cells, or at the ends of lines: removed"),
    "no_last_newline": ("remark", "the last line has no line end"),
    "empty_users": ("remark", "users without any interaction: left out"),
    "lines_without_items": ("remark", "lines that name a user and no item"),
    "item_gaps": ("remark", "item numbers that nothing is known of: the others were moved together"),
    "silent_items": ("remark", "items without any interaction that are kept, since something is known of them"),
    "unlinked_items": ("remark", "items without an entity in the knowledge graph: kept, with an empty neighbourhood"),
    "self_loops": ("remark", "triples from an entity to itself: kept"),
    "no_validation": ("remark", "the data bring train and test, but no validation part"),
    "filtered": ("remark", "what a minimum rating or the k-core left out"),
    "absent_features": ("remark", "items that lack a modality"),
}


class DataWarning(UserWarning):
    """Data were read, but not all of them as they stand; one line says what was done."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a reader repaired or noticed."""

    kind: str
    """A key of `KINDS`."""
    message: str
    """One line for people, with the data set's or the file's name."""
    count: int
    """How many rows, items, triples..., at least 1."""
    where: dict[str, str | int]
    """Further facts by name, such as `file`, `line`, `first` (an example)."""

    @property
    def level(self) -> str:
        """'warning' or 'remark'."""
        return KINDS[self.kind][0]


_notes: contextvars.ContextVar[list[Finding] | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def collect() -> Iterator[list[Finding]]:
    """Gathers the findings of the block in a list, in the order they are made; nothing is warned of meanwhile."""
    notes: list[Finding] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(kind: str, message: str, count: int = 1, **where: str | int) -> None:
    """Reports something that was repaired or noticed; a count of 0 reports nothing.

    Args:
      kind: a key of `KINDS`.
      message: one line that names the file or data set, and says what was done.
      count: how many rows, items, triples, ...
      **where: further facts, such as `file` and `line`.

    Raises:
      ValueError: if the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of finding '{kind}'. Known: {', '.join(KINDS)}.")
    if not count:
        return
    finding = Finding(kind, message, int(count), where)
    notes = _notes.get()
    if notes is not None:
        notes.append(finding)
    elif finding.level == "warning":
        warnings.warn(message, DataWarning, stacklevel=2)

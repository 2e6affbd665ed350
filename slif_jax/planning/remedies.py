"""What would make a training fit that does not, each change tried out on the model."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

from slif_jax.config import CONTENT, Config
from slif_jax.planning.sizes import Sizes


class Setting(NamedTuple):
    """All that the bytes of a training depend on."""

    sizes: Sizes
    config: Config
    devices: int = 1


Needed = Callable[[Setting], int]
_POWERS = tuple(2**i for i in range(1, 17))
_RANKS = {"regression": "regression_rank", "walks": "walk_rank", CONTENT: "content_rank"}  # of linear models
_LEAST_RANK = 8


def gib(num_bytes: float | int) -> str:
    """Bytes in words, in units of 2**30 or 2**20."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"


def settings_that_fit(at: Setting, needed: Needed, room: int, *, most_devices: int = 1) -> tuple[str, ...]:
    """The least change of each setting that suffices on its own.

    Args:
      at: what does not fit.
      needed: bytes per device of a setting.
      room: bytes that a device has.
      most_devices: that can be had.

    Returns:
      Sentences.
    """
    sizes, config = at.sizes, at.config
    widths = [w for n in _POWERS if (w := config.width // n) >= 8 and w % config.gather_blocks == 0]
    by_width = sorted(sizes.modalities)
    batches = [config.batch_size // n for n in _POWERS]
    cuts = [n for n in _POWERS if config.width % n == 0 and n > config.gather_blocks] if at.devices > 1 else []
    blocks = [(n, dataclasses.replace(config, gather_blocks=n)) for n in cuts]
    ranks = [field for name, field in _RANKS.items() if name in config.linear_weights()]
    smaller = [{field: getattr(config, field) // n for field in ranks} for n in _POWERS if ranks]
    tried = [
        [(f"{n * at.devices} devices", at._replace(devices=n * at.devices)) for n in _POWERS],
        [(f"--width={w}", at._replace(config=dataclasses.replace(config, width=w))) for w in widths],
        [
            (
                f"{len(by_width) - n} of {len(by_width)} modalities",
                at._replace(sizes=dataclasses.replace(sizes, modalities=tuple(by_width[:-n]))),
            )
            for n in range(1, len(by_width) + 1)
        ],
        [
            (f"--batch_size={b}", at._replace(config=dataclasses.replace(config, batch_size=b)))
            for b in batches
            if b >= 256
        ],
        [
            (
                " ".join(f"--{field}={rank}" for field, rank in by.items()),
                at._replace(config=dataclasses.replace(config, **by)),
            )
            for by in smaller
            if min(by.values()) >= _LEAST_RANK
        ],
        [("--precision=bf16", at._replace(config=_half(config)))],
        [(f"--gather_blocks={n}", at._replace(config=cut)) for n, cut in blocks],
        [(f"--precision=bf16 --gather_blocks={n}", at._replace(config=_half(cut))) for n, cut in blocks],
        [("--noknowledge_graph", at._replace(config=dataclasses.replace(config, knowledge_graph=False)))],
    ]
    found = [text for kind in tried if (text := _first(kind, needed, room, most_devices))]
    alone = [text for text in found if not text.startswith("--precision=bf16 ")]
    return tuple(alone if any(text.startswith(("--precision", "--gather")) for text in alone) else found)


def _half(config: Config) -> Config:
    return dataclasses.replace(config, precision="bf16")


def _first(tried: Iterable[tuple[str, Setting]], needed: Needed, room: int, most_devices: int) -> str | None:
    for text, setting in tried:
        if setting.devices <= most_devices and (total := needed(setting)) <= room:
            return f"{text}: {gib(total)}."
    return None

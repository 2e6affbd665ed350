"""What a compiled program sends between devices, read from its HLO."""

import math
import re
from typing import NamedTuple

import jax

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLS = re.compile(r"(?:to_apply|body|condition|calls)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")


class Collective(NamedTuple):
    """One exchange in a program."""

    kind: str
    """One of `KINDS`."""
    shapes: tuple[tuple[int, ...], ...]
    """Of what a device has afterwards."""
    result_bytes: int
    """Bytes of that."""
    in_loop: bool
    """Whether it stands in a loop: in the program of an epoch, in every step."""
    dtypes: tuple[str, ...] = ()
    """Of the arrays, in the words of HLO: f32, bf16, s32."""

    def sent_bytes(self, num_devices: int) -> float:
        """Bytes that each device sends, if the devices form a ring.

        Args:
          num_devices: how many take part.

        Returns:
          The bytes; a permute or an all-to-all sends what it results in.
        """
        others = num_devices - 1
        match self.kind:
            case "all-gather":
                return self.result_bytes * others / num_devices
            case "reduce-scatter":
                return float(self.result_bytes * others)
            case "all-reduce":
                return 2.0 * self.result_bytes * others / num_devices
            case _:
                return float(self.result_bytes)


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """All exchanges between devices in a compiled program, in the order of its text.

    Args:
      compiled: from `jax.jit(...).lower(...).compile()`.

    Returns:
      One entry per operation of the program; XLA may have joined several into one.
    """
    return read_collectives(compiled.as_text() or "")


def read_collectives(text: str) -> list[Collective]:
    """The same from the text of a program."""
    found: list[tuple[str, Collective]] = []
    called: dict[str, set[str]] = {}
    bodies: set[str] = set()
    name = ""
    for line in text.splitlines():
        heading = _COMPUTATION.match(line)
        if heading and " = " not in line:
            name = heading.group(1)
            continue
        for one, several in _CALLS.findall(line):
            called.setdefault(name, set()).update(re.findall(r"[\w.\-]+", one or several))
        if " while(" in line:
            bodies.update(re.findall(r"body=%?([\w.\-]+)", line))
        operation = _COLLECTIVE.search(line)
        if operation:
            arrays = _ARRAY.findall(operation.group(1))
            if operation.group(3) and operation.group(2) != "all-reduce":  # a start gives operands, then results
                arrays = arrays[len(arrays) // 2 :]
            shapes = tuple(tuple(int(n) for n in dims.split(",") if n) for _, dims in arrays)
            size = sum(_BYTES[kind] * math.prod(shape) for (kind, _), shape in zip(arrays, shapes, strict=True))
            dtypes = tuple(kind for kind, _ in arrays)
            found.append((name, Collective(operation.group(2), shapes, size, False, dtypes)))
    looped = _reachable(bodies, called)
    return [collective._replace(in_loop=place in looped) for place, collective in found]


def _reachable(starts: set[str], called: dict[str, set[str]]) -> set[str]:
    reached, waiting = set(), list(starts)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(called.get(name, ()))
    return reached

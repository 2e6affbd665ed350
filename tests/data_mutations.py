"""Damages the files of a folder at random, as disks, editors and spreadsheets do."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

_CELLS = [
    *(b"", b" ", b"-1", b"0", b"1", b"3", b"7", b"99", b"2147483646", b"2147483648", b"99999999999999999999", b"1e9"),
    *(b"nan", b"inf", b"-inf", b"1e39", b"1e400", b"0x1f", b"1.5", b"1_0", b"+2", b"\xff\xfe", b"\x00", b"\xc2\xa0"),
    *(b"u01", b"B03", b"train", b"None", b"NULL", b'"', b"'", b"#", b",", b":", b"\r", b"\t", b"\xe2\x80\xa8"),
]


def mutate(folder: Path, rng: random.Random) -> str:
    """Damages one file of a folder once or several times. Returns what was done."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = path.read_bytes()
    steps = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kinds = (*_ANY, *_BINARY) if path.suffix in (".npy", ".pkl") else (*_ANY, *_TEXT)
        change = rng.choice(kinds)
        content = change(content, rng)
        steps.append(change.__name__.strip("_"))
    if rng.random() < 0.02:
        path.unlink()
        return f"{path.relative_to(folder)}: removed"
    path.write_bytes(content)
    return f"{path.relative_to(folder)}: {', '.join(steps)}"


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _empty(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b"\r\n\r\n", b"\x00", b" ", b"\xef\xbb\xbf", content[:1]))


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice((*_CELLS, b"\n", b"\r\n", b"\x00" * 9)) + content[at:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:]


def _cut(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randrange(1, 20) :]


def _lines(content: bytes, rng: random.Random) -> bytes:
    """Deletes, doubles or swaps lines."""
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines.insert(at, b"")
    return b"\n".join(lines)


def _cell(content: bytes, rng: random.Random) -> bytes:
    """Replaces, removes, doubles or swaps cells."""
    mark = b"\t" if b"\t" in content else b" "
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(mark)
    place, other = rng.randrange(len(cells)), rng.randrange(len(cells))
    kind = rng.randrange(5)
    if kind <= 1:
        cells[place] = rng.choice(_CELLS)
    elif kind == 2:
        del cells[place]
    elif kind == 3:
        cells.insert(other, cells[place])
    else:
        cells[place], cells[other] = cells[other], cells[place]
    lines[at] = mark.join(cells)
    return b"\n".join(lines)


def _ends(content: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return content.replace(b"\n", b"\r\n")
    if kind == 1:
        return content.replace(b"\r", b"").replace(b"\n", b"\r")
    return b"\xef\xbb\xbf" + content if kind == 2 else content.rstrip(b"\n")


def _word(content: bytes, rng: random.Random) -> bytes:
    """Replaces a number wherever it stands."""
    return content.replace(str(rng.randrange(13)).encode(), rng.choice(_CELLS))


def _header(content: bytes, rng: random.Random) -> bytes:
    """Damages the first bytes, where `.npy` files and pickles say what they hold."""
    return _flip(content[:128], rng) + content[128:]


def _digits(content: bytes, rng: random.Random) -> bytes:
    """Changes a number in the header of an array: another shape, another type."""
    head = content[:128]
    digits = [place for place, byte in enumerate(head) if chr(byte).isdigit()]
    if not digits:
        return content
    at = rng.choice(digits)
    return head[:at] + rng.choice((b"0", b"9", b"99999999", b"-1", b"")) + head[at + 1 :] + content[128:]


def _not_a_number(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice((b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00\x00\x80\x7f")) + content[at + 4 :]


_ANY: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _truncate, _empty, _insert, _repeat, _cut)
_TEXT = (_lines, _lines, _cell, _cell, _cell, _cell, _ends, _word)
_BINARY = (_header, _header, _digits, _not_a_number)


def fresh_copy(source: Path, target: Path) -> Path:
    """Puts an undamaged copy in place of `target`."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))

"""What the programs that write lists share: ids from a file or a flag, and a place to write to."""

import os
import re
from pathlib import Path

from absl import flags

from slif_jax.lists import Names

_MAX_BYTES = 1 << 30  # of a list of ids: fifty million of them


def target(value: str, flag: str = "output") -> Path:
    """The file that a flag names; refused, before anything slow is done, if it cannot be written.

    Args:
      value: of the flag.
      flag: its name, for messages.

    Returns:
      The path.

    Raises:
      OSError: if its folder is absent, or it is a folder itself.
    """
    output = Path(value).expanduser()
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no folder. Make it first, or name another --{flag}.")
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"{output.parent} cannot be written to. Name another --{flag}.")
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder. Name a file with --{flag}.")
    return output


def read_names(file_flag: str, one_flag: str | None = None) -> Names | None:
    """The original ids that the flags ask for.

    Args:
      file_flag: flag with the path of a text file, one id per line.
      one_flag: flag with a single id.

    Returns:
      The ids, or None where neither flag is given.

    Raises:
      ValueError: if both are given, or the id is empty, or the file is no UTF-8 text with at least one id.
    """
    one = flags.FLAGS[one_flag].value if one_flag else None
    path = flags.FLAGS[file_flag].value
    if one is not None and path is not None:
        raise ValueError(f"Give --{one_flag} or --{file_flag}, not both.")
    if one is not None:
        if not one.strip():
            raise ValueError(f"--{one_flag} is empty: give an original id.")
        return Names(f"--{one_flag}", [one])
    if path is None:
        return None
    source = f"--{file_flag}={path}"
    try:
        with Path(path).expanduser().open("rb") as file:  # it may be a pipe, whose size nobody knows
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{source} is larger than {_MAX_BYTES >> 20} MiB: it must be a list of ids.")
        lines = re.split(r"\r\n?|\n", content.decode("utf-8-sig"))  # an id may hold what else counts as a line's end
    except UnicodeDecodeError:
        raise ValueError(f"{source} is not UTF-8 text with one id per line.") from None
    except OSError as error:
        raise ValueError(f"{source} must be a text file with one id per line: {error.strerror}.") from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"{source} names no id: write one per line.")
    return Names(source, lines)

"""Writes each user's best unseen items, with the ids of the source.

python -m experiments.recommend --workdir=runs/ml-100k --top=20 --output=recs.tsv
"""

import os
from pathlib import Path

import numpy as np
from absl import flags

from experiments import cli
from slif_jax import ops
from slif_jax.recommend import load_trained, top_n, user_indices, write_tsv

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_TOP = flags.DEFINE_integer("top", 20, "Items per user.", lower_bound=1)
_USERS = flags.DEFINE_string("users", None, "Text file with one original user id per line; default: every user.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write; tab-separated text.", required=True)
_SAMPLE = flags.DEFINE_integer("sample", 0, "Lines to print as well, each of another user.", lower_bound=0)


def main() -> None:
    """Writes the lists."""
    cli.set_up_jax()
    output = Path(_OUTPUT.value)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no folder. Make it first, or name another --output.")
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder. Name a file with --output.")
    ids = None if _USERS.value is None else _read_ids(Path(_USERS.value))
    with ops.default_implementation(flags.FLAGS.implementation):
        trained = load_trained(_WORKDIR.value, data_dir=flags.FLAGS.data_dir)
        dataset = trained.dataset
        users = np.arange(dataset.num_users)
        if ids is not None:
            users = user_indices(dataset, ids, source=str(_USERS.value))
        partial = output.with_name(output.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            lines = write_tsv(top_n(trained.encoded, dataset, users, n=_TOP.value), dataset, file)
        os.replace(partial, output)
    print(f"Wrote {lines:,} recommendations for {len(users):,} users to {output}.")
    if lines < len(users) * _TOP.value:
        print(f"Some lists are shorter than {_TOP.value}: those users have fewer unseen items.")
    if _SAMPLE.value:
        _print_sample(output, _SAMPLE.value)


def _read_ids(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"--users={path} is not UTF-8 text with one user id per line.") from None
    except OSError as error:
        raise ValueError(f"--users={path} cannot be read: {error.strerror}.") from None


def _print_sample(output: Path, count: int) -> None:
    with output.open(encoding="utf-8") as file:
        print(next(file), end="")
        firsts = (line for line in file if line.split("\t")[1] == "1")
        for line, _ in zip(firsts, range(count), strict=False):
            print(line, end="")


if __name__ == "__main__":
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

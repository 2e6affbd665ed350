"""Writes each user's best unseen items, with the ids of the source.

python -m experiments.recommend --workdir=runs/ml-100k --top=20 --output=recs.tsv
"""

import sys
import time

from absl import flags

from experiments import cli, outputs
from slif_jax import lists, ops
from slif_jax.recommend import PROFILES, columns, known_items, load_trained, top_n
from slif_jax.workdir import peak_memory_bytes

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_TOP = flags.DEFINE_integer("top", 20, "Items per user.", lower_bound=1)
_USERS = flags.DEFINE_string("users", None, "Text file with one original user id per line; default: every user.")
_ITEMS = flags.DEFINE_string(
    "items", None, "Text file with one original item id per line: only these are recommended; default: every item."
)
_PROFILE = flags.DEFINE_enum(
    "profile", "full", PROFILES, "What a user has seen: the 'train' part, or the 'full' history with valid and test."
)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write: a .tsv, .jsonl or .npz file.", required=True)
_FORMAT = flags.DEFINE_enum("output_format", None, lists.FORMATS, "Format; default: by the suffix of --output.")
_SAMPLE = flags.DEFINE_integer("sample", 0, "Lines to print as well, each of another user.", lower_bound=0)


def main() -> None:
    """Writes the lists."""
    cli.set_up_jax()
    output = outputs.target(_OUTPUT.value)
    format_name = lists.file_format(output, _FORMAT.value)
    user_names, item_names = (outputs.read_names(flag) for flag in ("users", "items"))
    with ops.default_implementation(flags.FLAGS.implementation):
        trained = load_trained(_WORKDIR.value, data_dir=flags.FLAGS.data_dir)
        dataset, encoded = trained.dataset, trained.encoded
        start = time.perf_counter()
        users = lists.positions(dataset.user_ids, user_names, what="user", place=dataset.name)
        candidates = lists.positions(dataset.item_ids, item_names, what="item", place=dataset.name)
        seen, names = known_items(dataset, _PROFILE.value), columns(dataset)
        blocks = top_n(encoded, dataset, users, n=_TOP.value, seen=seen, candidates=candidates)
        count = lists.write(blocks, names, output, format_name=format_name)
        print(
            f"Wrote {count:,} recommendations for {len(users):,} users to {output} "
            f"in {time.perf_counter() - start:.1f} s; peak memory {peak_memory_bytes() / 2**20:,.0f} MiB."
        )
        if count < len(users) * _TOP.value:
            print(f"Some lists are shorter than {_TOP.value}: there are no more unseen items for those users.")
        if _SAMPLE.value:
            sys.stdout.flush()
            first = users[: _SAMPLE.value]
            blocks = top_n(encoded, dataset, first, n=1, seen=seen, candidates=candidates)
            lists.write_tsv(blocks, names, sys.stdout.buffer)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

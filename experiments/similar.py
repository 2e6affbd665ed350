"""Writes the items near each item, with the ids of the source.

python -m experiments.similar --workdir=runs/ml-100k --item=50
python -m experiments.similar --workdir=runs/ml-100k --by=correlation --output=similar.tsv
"""

import sys

from absl import flags

from experiments import cli, outputs
from slif_jax import lists, ops, similar
from slif_jax.recommend import load_trained

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_ITEM = flags.DEFINE_string("item", None, "Original id of an item.")
_ITEMS = flags.DEFINE_string("items", None, "Text file with one original item id per line; default: every item.")
_TOP = flags.DEFINE_integer("top", 10, "Neighbours per item.", lower_bound=1)
_BY = flags.DEFINE_enum(
    "by",
    "vectors",
    similar.MEASURES,
    "'vectors': cosine of the final vectors; 'correlation': the edges of the correlation graph and their weights.",
)
_OUTPUT = flags.DEFINE_string("output", None, "A .tsv, .jsonl or .npz file; default: text to standard output.")
_FORMAT = flags.DEFINE_enum("output_format", None, lists.FORMATS, "Format; default: by the suffix of --output.")


def main() -> None:
    """Writes the lists."""
    cli.set_up_jax()
    output = None if _OUTPUT.value is None else outputs.target(_OUTPUT.value)
    format_name = "tsv" if output is None else lists.file_format(output, _FORMAT.value)
    names = outputs.read_names(_ITEMS.name, _ITEM.name)
    with ops.default_implementation(flags.FLAGS.implementation):
        trained = load_trained(_WORKDIR.value, data_dir=flags.FLAGS.data_dir)
        dataset = trained.dataset
        items = lists.positions(dataset.item_ids, names, what="item", place=dataset.name)
        if _BY.value == "vectors":
            blocks = similar.by_vectors(trained.encoded.final.items, items, n=_TOP.value)
        else:
            blocks = similar.by_correlation(trained.correlation, items, n=_TOP.value)
        columns = similar.columns(dataset, _BY.value)
        if output is None:
            lists.write_tsv(blocks, columns, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        count = lists.write(blocks, columns, output, format_name=format_name)
    print(f"Wrote {count:,} neighbours of {len(items):,} items to {output}.")
    if count < len(items) * _TOP.value:
        print(f"Some lists are shorter than {_TOP.value}: those items have no more neighbours.")


if __name__ == "__main__":
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

"""Explains recommendations: liked items near an item, triples the model attends to, what each view adds to the score.

python -m experiments.explain --workdir=runs/ml-100k --user=1 --top=3
python -m experiments.explain --workdir=runs/ml-100k --user=1 --item=50 --output=why.json
"""

import json

import numpy as np
from absl import flags

from experiments import cli, outputs
from slif_jax import lists, ops
from slif_jax.explain import explain, gather_evidence
from slif_jax.explain_text import as_record, as_text
from slif_jax.recommend import load_trained, top_n
from slif_jax.workdir import replace_text

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_USER = flags.DEFINE_string("user", None, "Original id of a user.")
_USERS = flags.DEFINE_string("users", None, "Text file with one original user id per line.")
_ITEM = flags.DEFINE_string("item", None, "Original id of an item; default: the best unseen items of each user.")
_ITEMS = flags.DEFINE_string("items", None, "Text file with one original item id per line.")
_TOP = flags.DEFINE_integer("top", 3, "Without --item: how many of the best items to explain.", lower_bound=1)
_LIKED = flags.DEFINE_integer("liked", 5, "Liked items per explanation.", lower_bound=1)
_TRIPLES = flags.DEFINE_integer("triples", 5, "Triples per explanation.", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    "output", None, "A .json file (a list), .jsonl (one a line) or .txt; default: text to standard output."
)


def main() -> None:
    """Writes the explanations."""
    cli.set_up_jax()
    output = None if _OUTPUT.value is None else outputs.target(_OUTPUT.value)
    if output is not None and output.suffix.lower() not in (".json", ".jsonl", ".txt"):
        raise ValueError(f"--output={output} must end in .json, .jsonl or .txt.")
    user_names, item_names = (outputs.read_names(*pair) for pair in (("users", "user"), ("items", "item")))
    if user_names is None:
        raise ValueError("Name whom to explain for: --user=ID, or --users=FILE.")
    with ops.default_implementation(flags.FLAGS.implementation):
        trained = load_trained(_WORKDIR.value, data_dir=flags.FLAGS.data_dir)
        dataset = trained.dataset
        users = lists.positions(dataset.user_ids, user_names, what="user", place=dataset.name)
        if item_names is not None:
            items = lists.positions(dataset.item_ids, item_names, what="item", place=dataset.name)
            pairs = [(user, item) for user in users for item in items]
        else:
            blocks = top_n(trained.encoded, dataset, users, n=_TOP.value)
            pairs = [(u, i) for block in blocks for u, row in zip(block.users, block.items, strict=True) for i in row]
        evidence = gather_evidence(trained)
        found = [
            explain(evidence, int(user), int(item), num_liked=_LIKED.value, num_triples=_TRIPLES.value)
            for user, item in pairs
            if item >= 0
        ]
    if output is None or output.suffix.lower() == ".txt":
        text = "\n".join(as_text(explanation, dataset) for explanation in found)
    elif output.suffix.lower() == ".jsonl":
        text = "".join(json.dumps(as_record(each, dataset), ensure_ascii=False) + "\n" for each in found)
    else:
        text = json.dumps([as_record(each, dataset) for each in found], ensure_ascii=False, indent=2) + "\n"
    if output is None:
        print(text, end="")
        return
    replace_text(output, text)
    print(f"Wrote {len(found):,} explanations for {len(np.unique(users)):,} users to {output}.")


if __name__ == "__main__":
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

"""Writes a data set of any format in this project's layout, or in MMRec's.

python -m experiments.convert --from=path/to/folder --to=path/to/new/folder --layout=native
python -m experiments.convert --from=ml-100k --to=data/ml-100k --layout=mmrec
"""

from pathlib import Path

from absl import flags

from experiments import cli
from slif_jax import data
from slif_jax.data.write import LAYOUTS, check_target, write

_DATA_FIELDS = ("format", "split", "split_seed", "k_core", "min_rating")

_FROM = flags.DEFINE_string("from", None, "A folder in any format, or a built-in name.", required=True)
_TO = flags.DEFINE_string("to", None, "Folder to write; must be empty, or not there.", required=True)
_LAYOUT = flags.DEFINE_enum("layout", "native", list(LAYOUTS), "How to write it.")
flags.DEFINE_string("data_dir", None, "Where fetched data sets are kept; default: the user's cache folder.")


def main() -> None:
    """Reads, writes, and says what was done."""
    target = Path(_TO.value).expanduser()
    check_target(target)
    config = cli.config_from_flags(names=_DATA_FIELDS)
    print(f"Reading {_FROM.value}.", flush=True)
    dataset = data.load(
        _FROM.value, data_dir=flags.FLAGS.data_dir, **{name: getattr(config, name) for name in _DATA_FIELDS}
    )
    print(dataset.summary(), flush=True)
    write(dataset, target, _LAYOUT.value, lambda name: print(f"Wrote {name}.", flush=True))
    print(f"{target} is ready: split {dataset.split_fingerprint[:16]}.")


if __name__ == "__main__":
    cli.define_config_flags(names=_DATA_FIELDS)
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

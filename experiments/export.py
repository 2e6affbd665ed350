"""Writes a model to take away: vectors with id tables, and a scorer that runs without slif_jax.

python -m experiments.export --workdir=runs/ml-100k --output=exported
python examples/score_export.py exported 1 2
"""

from pathlib import Path

from absl import flags

from experiments import cli
from slif_jax import ops
from slif_jax.export import check_folder, export
from slif_jax.recommend import PROFILES, load_trained

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; an earlier export there is replaced.", required=True)
_TOP = flags.DEFINE_integer("top", 100, "Items per user that the scorer returns.", lower_bound=1)
_PROFILE = flags.DEFINE_enum(
    "profile", "full", PROFILES, "What a user has seen: the 'train' part, or the 'full' history with valid and test."
)


def main() -> None:
    """Writes the folder."""
    cli.set_up_jax()
    folder = Path(_OUTPUT.value).expanduser()
    check_folder(folder)
    with ops.default_implementation(flags.FLAGS.implementation):
        trained = load_trained(_WORKDIR.value, data_dir=flags.FLAGS.data_dir)
        manifest = export(trained, folder, top=_TOP.value, profile=_PROFILE.value)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")
    scorer = manifest["scorer"]
    print(f"The scorer returns the {scorer['top']} best items and runs on {', '.join(scorer['platforms'])}.")


if __name__ == "__main__":
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

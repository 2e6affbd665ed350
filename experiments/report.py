"""Writes a run or a study as one HTML page that needs no network and opens from disk.

python -m experiments.report --workdir=runs/ml-100k
python -m experiments.report --workdir=runs/ablation --output=ablation.html
"""

from pathlib import Path

from absl import flags

from experiments import cli, outputs
from slif_jax import ops
from slif_jax.report import report
from slif_jax.workdir import replace_text

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run or study.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The page; default: WORKDIR/report.html.")
_NUM_USERS = flags.DEFINE_integer(
    "num_users", 3, "Users of a run to show with history, recommendations and reasons; 0 is quicker.", lower_bound=0
)


def main() -> None:
    """Writes the page."""
    cli.set_up_jax()
    workdir = Path(_WORKDIR.value)
    output = workdir / "report.html" if _OUTPUT.value is None else outputs.target(_OUTPUT.value)
    with ops.default_implementation(flags.FLAGS.implementation):
        text = report(workdir, data_dir=flags.FLAGS.data_dir, num_users=_NUM_USERS.value)
    replace_text(output, text)
    print(f"Wrote {output} ({len(text.encode()) / 2**10:.0f} KiB). Open it in a browser.")


if __name__ == "__main__":
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

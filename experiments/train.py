"""Trains SLIF-MR and evaluates it on test.

python -m experiments.train --flagfile=experiments/presets/ml-100k.flags --workdir=runs/ml-100k
python -m experiments.train --dataset=path/to/folder --workdir=runs/mine
"""

from pathlib import Path

from absl import flags

from experiments import cli
from experiments.stopping import stop_on_signals
from slif_jax import ops
from slif_jax.events import with_tensorboard
from slif_jax.meshes import make_mesh
from slif_jax.outcome import describe_result
from slif_jax.progress import MODES
from slif_jax.train import train_and_evaluate
from slif_jax.workdir import RESUME_MODES

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: config, metrics, checkpoints, plots, result.", required=True
)
_RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    RESUME_MODES,
    "auto: go on where there is a run; must: fail where there is none; never: start over.",
)
_PROGRESS = flags.DEFINE_enum("progress", "auto", MODES, "auto: a bar on a terminal, else one line per epoch.")
_CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", 10, "Epochs between two checkpoints; a new best is saved as well.", lower_bound=1
)
_CHECKPOINT_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes", 5.0, "Save an epoch too if the last checkpoint is older than this.", lower_bound=0.0
)
_MESH = flags.DEFINE_string(
    "mesh", "none", "Devices that share the work, such as data:8 or data:4,model:2; none: one device (docs/scaling.md)."
)
_CHECK_MEMORY = flags.DEFINE_boolean(
    "check_memory", True, "Do not begin a training that is estimated to need more memory than there is."
)
_DEBUG_NANS = flags.DEFINE_boolean(
    "debug_nans", False, "Where a loss is not finite, find the operation that gave it; one device only."
)
_TENSORBOARD = flags.DEFINE_boolean(
    "tensorboard", False, "Write events to WORKDIR/tensorboard too; needs the extra 'tensorboard'."
)


def main() -> None:
    """Runs the training that the flags describe."""
    config = cli.config_from_flags()
    with stop_on_signals() as should_stop, cli.several_hosts() as hosts:
        cli.set_up_jax()
        progress = _PROGRESS.value
        if _TENSORBOARD.value and hosts.index == 0:
            progress = with_tensorboard(progress, Path(_WORKDIR.value) / "tensorboard")
        with ops.default_implementation(flags.FLAGS.implementation):
            result = train_and_evaluate(
                config,
                _WORKDIR.value,
                data_dir=flags.FLAGS.data_dir,
                resume=_RESUME.value,
                progress=progress,
                checkpoint_every=_CHECKPOINT_EVERY.value,
                checkpoint_minutes=_CHECKPOINT_MINUTES.value,
                should_stop=should_stop,
                flags_text=cli.flags_text(),
                mesh=make_mesh(_MESH.value),
                check_memory=_CHECK_MEMORY.value,
                debug_nans=_DEBUG_NANS.value,
            )
        if _PROGRESS.value == "off" and hosts.index == 0:
            print(describe_result(result))


if __name__ == "__main__":
    cli.define_config_flags()
    cli.define_run_flags()
    cli.define_launch_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

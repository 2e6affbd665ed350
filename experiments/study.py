"""Runs a study: many trainings that end in one table and one plot. What is done is not run again.

python -m experiments.study --study=ablation --seeds=0,1,2 --dataset=ml-100k --epochs=30 --workdir=runs/ablation
python -m experiments.study --study=noise --noise=triples --levels=0,10,20,30 --workdir=runs/noise
python -m experiments.study --study=cold_start --cold_items=0.1 --workdir=runs/cold
python -m experiments.study --study=seeds --seeds=0,1,2,3,4 --against="--noself_loop" --workdir=runs/seeds
python -m experiments.study --study=seeds --seeds=0 --split=ratio --split_seeds=1,2,3,4 --workdir=runs/splits
python -m experiments.study --study=sweep --trials=30 --workdir=runs/sweep
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import cli
from experiments.stopping import stop_on_signals
from slif_jax import ops, studies
from slif_jax.config import Config
from slif_jax.prepare import load_dataset
from slif_jax.progress import MODES
from slif_jax.studies.plan import ALTERNATIVES, NOISE_KINDS, Plan

KINDS = ("ablation", "noise", "cold_start", "seeds", "sweep")

_STUDY = flags.DEFINE_enum("study", None, KINDS, "Which study.", required=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the study: study.{json,csv,md,tex,png}, runs/.", required=True
)
_SEEDS = flags.DEFINE_list("seeds", "0,1,2", "Seeds of the model; every row is trained with each. A sweep has one.")
_SPLIT_SEEDS = flags.DEFINE_list(
    "split_seeds",
    None,
    "Seeds of the split, where it is drawn (--split=ratio), and of --cold_items: every row is trained on each split "
    "with each of --seeds, and a user's value is averaged over them before it is tested. Default: --split_seed alone.",
)
_METRICS = flags.DEFINE_list("metrics", None, "Metrics of the table; default: --select_on, and NDCG at its cut-off.")
_ALTERNATIVE = flags.DEFINE_enum(
    "alternative",
    None,
    ALTERNATIVES,
    "Of the paired tests: 'greater' asks whether the reference is better than the row. Default: greater, and two-sided "
    "for --study=seeds.",
)
_AGAINST = flags.DEFINE_multi_string(
    "against",
    [],
    "Flags of another configuration, on top of these: --against='--noself_loop --width=32'. It may be given again.",
)
_NOISE = flags.DEFINE_enum("noise", "interactions", tuple(NOISE_KINDS), "What --study=noise spoils, in train only.")
_LEVELS = flags.DEFINE_list("levels", "0,10,20,30", "Percents of noise; 0 is always run.")
_TRIALS = flags.DEFINE_integer("trials", 30, "Configurations that --study=sweep tries.", lower_bound=1)
_SEARCH = flags.DEFINE_list("search", None, "Settings that --study=sweep searches; default: all that count here.")
_PROGRESS = flags.DEFINE_enum("progress", "auto", MODES, "auto: bars on a terminal, else two lines per run.")
_CHECKPOINT_EVERY = flags.DEFINE_integer("checkpoint_every", 10, "Epochs between two checkpoints.", lower_bound=1)


def main() -> None:
    """Runs the study that the flags describe and prints its table."""
    config = cli.config_from_flags()
    workdir = Path(_WORKDIR.value)
    cli.set_up_jax()
    compiled = None
    if flags.FLAGS.compilation_cache_dir is None:  # seeds share their programs: each is compiled once
        compiled = workdir / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(compiled.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    options: dict[str, Any] = {
        "data_dir": flags.FLAGS.data_dir,
        "progress": _PROGRESS.value,
        "checkpoint_every": _CHECKPOINT_EVERY.value,
        "command": shlex.join(["python", "-m", "experiments.study", *sys.argv[1:]]),
    }
    with stop_on_signals() as should_stop, ops.default_implementation(flags.FLAGS.implementation):
        options["should_stop"] = should_stop
        if _STUDY.value == "sweep":
            from slif_jax.studies.sweep import run_sweep

            if _SPLIT_SEEDS.value:
                raise ValueError("--split_seeds has no place in a sweep: it searches on one split, --split_seed.")

            run_sweep(config, workdir, trials=_TRIALS.value, search=_SEARCH.value, **options)
        else:
            studies.run_study(_plan(config), workdir, **options)
    if compiled is not None:
        shutil.rmtree(compiled, ignore_errors=True)
    print((workdir / "study.md").read_text())
    print(f"{workdir}/study.csv, study.md, study.tex, study.png, study.json")


def _plan(config: Config) -> Plan:
    if _AGAINST.value and _STUDY.value == "ablation":
        raise ValueError("--against has no place in an ablation: its rows are the parts that are left out.")
    against = [(text, cli.changed_config(config, text, flag="against")) for text in _AGAINST.value]
    dataset = load_dataset(config, data_dir=flags.FLAGS.data_dir)
    options = {
        "seeds": [_number(text, "seeds", int) for text in _SEEDS.value],
        "split_seeds": tuple(_number(text, "split_seeds", int) for text in _SPLIT_SEEDS.value or ()),
        "metrics": tuple(_METRICS.value or ()),
        "alternative": _ALTERNATIVE.value,
    }
    match _STUDY.value:
        case "ablation":
            return studies.ablation(config, dataset, **options)
        case "noise":
            levels = [_number(text, "levels", float) for text in _LEVELS.value]
            return studies.noise(config, dataset, kind=_NOISE.value, levels=levels, against=against, **options)
        case "cold_start":
            return studies.cold_start(config, dataset, against=against, **options)
        case _:
            return studies.seeds(config, dataset, against=against, **options)


def _number(text: str, flag: str, kind: type):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"--{flag} must be numbers with commas between them: got '{text}'.") from None


if __name__ == "__main__":
    cli.define_config_flags()
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)

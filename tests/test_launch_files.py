"""The files of experiments/launch: what they call, and one of them at work."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT
from two_hosts import WORKER, free_port

from experiments import cli

FAKE = """#!/bin/sh
# Writes down how it was called.
printf '%s\\n' "$(basename "$0")" "$@" >> "$CALLS"
"""


def launch(name: str, folder: Path, *flags: str, **variables: str) -> list[str]:
    """What a launch file calls, in a world of programs that only write down their arguments."""
    (folder / "bin").mkdir()
    for program in ("srun", "gcloud", "xpk", "scontrol", "nvidia-smi", "python"):
        (folder / "bin" / program).write_text(FAKE)
        (folder / "bin" / program).chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "CALLS": str(folder / "calls"), "PYTHON": "python"}
    command = ["bash", str(ROOT / "experiments" / "launch" / name), *flags]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "calls").read_text().splitlines()


def training(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The Python command in a call: what comes before its flags, and they."""
    start = words.index("-m") - 1
    flags = dict(word.removeprefix("--").split("=", 1) for word in words[start + 3 :])
    # Every flag exists, so a renamed one is found here.
    known = {flag.split("=")[0] for flag in TRAIN_FLAGS}
    assert set(flags) <= known
    return words[start : start + 3], flags


TRAIN_FLAGS = (*cli.LAUNCH_FLAGS, "flagfile", "mesh", "workdir", "progress", "epochs")


def test_launch_files_are_valid_shell():
    files = sorted((ROOT / "experiments" / "launch").glob("*.sh"))
    assert [path.name for path in files] == ["gcloud_tpu.sh", "gke_xpk.sh", "slurm.sh", "workstation.sh"]
    for path in files:
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert os.access(path, os.X_OK)


def test_slurm_starts_one_line_under_srun(tmp_path: Path):
    nodes = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_SUBMIT_DIR": str(ROOT)}
    calls = launch("slurm.sh", tmp_path, "--workdir=/shared/my runs", **nodes)
    assert calls[0] == "srun"
    command, flags = training(calls)
    assert command == ["python", "-m", "experiments.train"]
    assert flags["mesh"] == "data:16"
    assert flags["multihost"] == "auto"
    assert flags["workdir"] == "/shared/my runs"
    assert (ROOT / flags["flagfile"]).is_file()
    header = (ROOT / "experiments" / "launch" / "slurm.sh").read_text()
    assert re.search(r"#SBATCH --ntasks-per-node=(\d+)\n#SBATCH --gpus-per-node=\1\n", header)


def test_slurm_names_the_nodes_to_the_proxy(tmp_path: Path):
    nodes = {"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    calls = launch("slurm.sh", tmp_path, http_proxy="http://p:1", **nodes)
    assert calls[:4] == ["scontrol", "show", "hostnames", "node[1-2]"]


def test_gcloud_runs_the_same_line_on_all_workers(tmp_path: Path):
    variables = {"TPU_NAME": "mine", "ZONE": "z", "MESH": "data:16", "WORKDIR": "/mnt/my runs", "SETUP": "0"}
    calls = launch("gcloud_tpu.sh", tmp_path, "--epochs=5", **variables)
    assert calls[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "mine"]
    assert "--worker=all" in calls
    line = next(word for word in calls if word.startswith("--command=")).removeprefix("--command=")
    command, flags = training(shlex.split(line))
    assert shlex.split(line)[:3] == ["cd", "slif_jax", "&&"]
    assert command == [".venv/bin/python", "-m", "experiments.train"]
    assert flags == {
        "flagfile": "experiments/presets/ml-100k.flags",
        "workdir": "/mnt/my runs",
        "mesh": "data:16",
        "multihost": "auto",
        "progress": "line",
        "epochs": "5",
    }


@pytest.mark.parametrize("hardware", [{"TPU_TYPE": "v5litepod-16"}, {"DEVICE_TYPE": "h200-141gb-8", "NODES": "2"}])
def test_xpk_makes_one_workload(tmp_path: Path, hardware: dict[str, str]):
    variables = {"CLUSTER": "c", "IMAGE": "i", "MESH": "data:16", "WORKDIR": "/data/run"} | hardware
    calls = launch("gke_xpk.sh", tmp_path, **variables)
    assert calls[:4] == ["xpk", "workload", "create", "--cluster=c"]
    assert f"--tpu-type={hardware.get('TPU_TYPE')}" in calls or "--num-nodes=2" in calls
    line = next(word for word in calls if word.startswith("--command=")).removeprefix("--command=")
    command, flags = training(shlex.split(line))
    assert command == ["python", "-m", "experiments.train"]
    assert flags["multihost"] == "auto"
    assert flags["mesh"] == "data:16"


def test_a_workstation_needs_one_process(tmp_path: Path):
    calls = launch("workstation.sh", tmp_path, "--workdir=runs/a", DEVICES="4")
    command, flags = training(calls)
    assert command == ["python", "-m", "experiments.train"]
    assert (flags["mesh"], flags["multihost"], flags["workdir"]) == ("data:4", "off", "runs/a")


def test_a_workstation_plays_several_hosts(tmp_path: Path):
    """The file itself, with a worker in the place of the training."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\nflags=()\nfor flag in "${@:3}"; do\n'
        '  case $flag in --flagfile=*|--mesh=*) ;; *) flags+=("$flag");; esac\ndone\n'
        f'exec {sys.executable} {WORKER} "${{flags[@]}}"\n'
    )
    python.chmod(0o755)
    variables = {"PROCESSES": "2", "DEVICES": "8", "PYTHON": str(python), "LOGS": str(tmp_path)}
    outside = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        ["bash", str(ROOT / "experiments" / "launch" / "workstation.sh"), "--job=collectives"],
        cwd=ROOT,
        env=outside | variables | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])
    assert (found["index"], found["count"], found["devices"]) == (0, 2, [4, 8])
    assert '"index": 1' in (tmp_path / "process-1.log").read_text()

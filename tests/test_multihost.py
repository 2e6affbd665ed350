"""Launching: what is detected, what is refused, and two real processes, one of which is lost."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax._src.clusters import ClusterEnv, cloud_tpu_cluster
from two_hosts import ROOT, WORKER, free_port, start_processes

from experiments import cli
from slif_jax import clusters, multihost
from slif_jax.clusters import Cluster, LaunchError, LaunchWarning

SLURM = {
    "SLURM_JOB_ID": "5005",
    "SLURM_STEP_NODELIST": "node[007-009,012],big1",
    "SLURM_NTASKS": "10",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "5",
    "SLURM_JOB_NUM_NODES": "5",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4),1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
TPU = {"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3", "TPU_WORKER_ID": "1"}
GKE = TPU | {"TPU_SKIP_MDS_QUERY": "true"}
SLICES = GKE | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "t0:80"}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine by itself, whatever this one is."""
    names = (
        "SLURM_",
        "OMPI_",
        "TPU_",
        "MEGASCALE_",
        "KUBERNETES_",
        "JOB_COMPLETION",
        "JAX_COORD",
        "JAX_LOCAL",
        "CUDA_V",
    )
    for name in list(os.environ):
        if name.startswith(names) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    return monkeypatch


@pytest.fixture
def asked(alone: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What jax.distributed is asked for, instead of doing it."""
    calls: list[dict[str, Any]] = []
    alone.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    return calls


def set_all(monkeypatch: pytest.MonkeyPatch, *environments: dict[str, str]) -> None:
    for environment in environments:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}, None),
        (SLURM, Cluster("SLURM", 10, "node007", 2, True, True)),
        (SLURM | {"SLURM_NODEID": "4"}, Cluster("SLURM", 10, "node007", 1, True, True)),
        (SLURM | {"SLURM_STEP_NODELIST": "a-1,b2"}, Cluster("SLURM", 10, "a-1", 2, True, True)),
        (SLURM | OPEN_MPI, Cluster("Open MPI", 4, "10.96.0.1", 2, True, True)),
        (
            OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp6://[fe80::1,2620::2]:43"},
            Cluster("Open MPI", 4, "fe80::1", 2, True, True),
        ),
        (GKE, Cluster("Cloud TPU on GKE", 4, None, None, True)),
        (SLICES, Cluster("Cloud TPU on GKE", 8, None, None, True)),
        (TPU, Cluster("Cloud TPU", None)),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_finds_what_jax_finds(alone: pytest.MonkeyPatch, environ: dict[str, str], expected: Cluster | None):
    alone.delenv("TPU_SKIP_MDS_QUERY")
    set_all(alone, environ)
    found = clusters.find_cluster(environ)
    assert found == expected

    # The same from JAX, on a TPU machine if the environment is one.
    alone.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", "TPU_ML_PLATFORM" in environ)
    alone.setattr(cloud_tpu_cluster, "get_metadata", lambda key: ("0", 200))
    alone.setattr(cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *arguments: None)
    alone.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    kinds = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method and kind.name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pod without the package kubernetes
        theirs = next((kind for kind in kinds if kind.is_env_present()), None)
    assert (theirs is None) == (found is None)
    if theirs is not None and found is not None and found.num_processes is not None:
        assert theirs.get_process_count() == found.num_processes
        assert found.one_device == (theirs.get_local_process_id() is not None)
        if found.coordinator is not None:
            address = theirs.get_coordinator_address(timeout_secs=1, override_coordinator_port=None)
            assert address.rsplit(":", 1)[0] == found.coordinator


def test_an_indexed_kubernetes_job_is_found_where_jax_can_look(alone: pytest.MonkeyPatch):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    assert clusters.find_cluster(pod) is None
    alone.setattr(clusters, "find_spec", lambda name: name)
    assert clusters.find_cluster(pod) == Cluster("a Kubernetes Job", None)


def test_one_machine_stays_one_process(asked: list[dict[str, Any]]):
    for mode in ("auto", "off"):
        hosts = multihost.initialize(mode)
        assert (hosts.index, hosts.count) == (0, 1)
    assert asked == []
    assert multihost.is_first()
    assert multihost.host_names() == (socket.gethostname()[:64],)
    tree = {"rows": np.arange(3)}
    assert multihost.all_hosts_value(tree) is tree
    with multihost.lost_hosts_are_named():
        pass


def test_off_wins_over_everything(asked: list[dict[str, Any]], alone: pytest.MonkeyPatch):
    set_all(alone, SLURM)
    assert multihost.initialize("off", "10.0.0.1:5", 2, 1).count == 1
    assert asked == []


@pytest.mark.parametrize("environ", [SLURM | {"SLURM_NTASKS": "1"}, GKE | {"TPU_WORKER_HOSTNAMES": "t0"}])
def test_a_launcher_with_one_process_is_one_machine(
    asked: list[dict[str, Any]], alone: pytest.MonkeyPatch, environ: dict[str, str]
):
    set_all(alone, environ)
    assert multihost.initialize("auto").count == 1
    assert asked == []
    multihost.initialize("on")
    assert len(asked) == 1


def test_what_jax_is_asked_for(asked: list[dict[str, Any]], alone: pytest.MonkeyPatch):
    hosts = multihost.initialize("auto", "10.0.0.1:5", 2, 1, (0, 1), 7, 9)
    assert asked[0] == {
        "coordinator_address": "10.0.0.1:5",
        "num_processes": 2,
        "process_id": 1,
        "local_device_ids": (0, 1),
        "cluster_detection_method": "deactivate",
        "initialization_timeout": 7,
        "heartbeat_timeout_seconds": 9,
        "shutdown_timeout_seconds": 1800,
    }
    assert "10.0.0.1:5" in hosts.how
    assert "this machine" not in hosts.how
    assert "this machine: every process" in multihost.initialize("auto", "localhost:5", 2, 1).how
    set_all(alone, SLURM, {"SLURM_GPUS_ON_NODE": "2"})
    assert "SLURM" in multihost.initialize("auto").how
    assert asked[-1]["cluster_detection_method"] is None
    assert asked[-1]["coordinator_address"] is None
    alone.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.2:6")
    assert "10.0.0.2:6" in multihost.initialize("auto").how
    assert not jax.config._read("jax_enable_preemption_service")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "on"}, ("--coordinator_address", "--multihost=off")),
        ({"num_processes": 2}, ("--num_processes needs --process_id",)),
        ({"process_id": 0}, ("--process_id needs --num_processes",)),
        ({"num_processes": 2, "process_id": 0}, ("--coordinator_address",)),
        ({"coordinator_address": "a:1"}, ("--num_processes", "got address a:1")),
        ({"coordinator_address": "a", "num_processes": 2, "process_id": 0}, ("HOST:PORT", "'a'")),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 2}, ("from 0 to 1", "got 2")),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": -1}, ("from 0 to 1", "got -1")),
        ({"local_device_ids": (0,)}, ("local devices (0,)",)),
        ({"mode": "maybe"}, ("auto, on, off", "maybe")),
    ],
)
def test_refuses_halves(asked: list[dict[str, Any]], arguments: dict[str, Any], words: tuple[str, ...]):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        multihost.initialize(**arguments)
    assert asked == []


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:5"}, "--num_processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "--process_id=\\$OMPI_COMM_WORLD_RANK"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, "pod 3 .*pip install kubernetes"),
    ],
)
def test_refuses_where_each_would_think_it_is_alone(
    asked: list[dict[str, Any]], alone: pytest.MonkeyPatch, environ: dict[str, str], word: str
):
    set_all(alone, environ)
    with pytest.raises(LaunchError, match=word):
        multihost.initialize("auto")
    assert multihost.initialize("off").count == 1
    multihost.initialize("auto", "10.0.0.1:5", 2, 0)
    assert len(asked) == 1


@pytest.mark.parametrize("address", ["localhost:5", "127.0.0.1:5", "127.3.2.1:5", "[::1]:5"])
def test_refuses_a_loopback_coordinator_of_several_hosts(
    asked: list[dict[str, Any]], alone: pytest.MonkeyPatch, address: str
):
    set_all(alone, SLURM)
    with pytest.raises(LaunchError, match=re.escape(f"'{address}' is a loopback address")):
        multihost.initialize("auto", address)
    assert asked == []
    set_all(alone, {"SLURM_STEP_NUM_NODES": "1"})
    multihost.initialize("auto", address)
    assert len(asked) == 1


def test_refuses_a_node_name_that_is_loopback_elsewhere(asked: list[dict[str, Any]], alone: pytest.MonkeyPatch):
    set_all(alone, SLURM)
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    alone.setattr(socket, "getaddrinfo", lambda host, port: loopback)
    with pytest.raises(LaunchError, match="'node007' is a loopback address"):
        multihost.initialize("auto")
    # On process 0's own host that is usual, and harmless.
    alone.setattr(socket, "gethostname", lambda: "node007.cluster")
    multihost.initialize("auto")
    alone.setattr(socket, "gethostname", lambda: "node008")
    alone.setattr(socket, "getaddrinfo", lambda host, port: [*loopback, (*loopback[0][:4], ("10.0.0.7", 0))])
    multihost.initialize("auto")
    set_all(alone, OPEN_MPI, {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:34911"})
    with pytest.raises(LaunchError, match=r"127\.0\.0\.1.*Open MPI"):
        multihost.initialize("auto")
    assert len(asked) == 2


def gpu_warnings(cluster: Cluster, num_gpus: int) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clusters.warn_of_idle_devices(cluster, num_gpus)
    assert all(issubclass(warning.category, LaunchWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_warns_of_gpus_that_stay_idle():
    slurm = Cluster("SLURM", 4, "node007", 1, True, True)
    (text,) = gpu_warnings(slurm, 4)
    assert "3 of 4 GPUs" in text
    assert "--ntasks-per-node=4" in text
    assert "--local_device_ids=0,1,2,3" in text
    (text,) = gpu_warnings(slurm._replace(here=2), 4)
    assert "2 of 4 GPUs" in text
    assert "--local_device_ids" not in text
    (text,) = gpu_warnings(slurm._replace(here=4), 1)
    assert "--local_device_ids=0" in text
    assert gpu_warnings(slurm._replace(here=4), 4) == []
    assert gpu_warnings(slurm._replace(here=4), 0) == []
    assert gpu_warnings(Cluster("Cloud TPU on GKE", 4, here=1), 4) == []


def test_the_warning_comes_from_the_environment(asked: list[dict[str, Any]], alone: pytest.MonkeyPatch):
    set_all(alone, SLURM, {"SLURM_GPUS_ON_NODE": "8"})
    with pytest.warns(LaunchWarning, match="6 of 8 GPUs"):
        multihost.initialize("auto")
    set_all(alone, {"CUDA_VISIBLE_DEVICES": "0,1"})
    multihost.initialize("auto")
    set_all(alone, {"CUDA_VISIBLE_DEVICES": "0,1,2"})
    multihost.initialize("auto", local_device_ids=(0, 1))
    set_all(alone, {"JAX_LOCAL_DEVICE_IDS": "0,1"})
    multihost.initialize("auto")
    assert len(asked) == 4


def test_warns_of_a_job_without_srun(asked: list[dict[str, Any]], alone: pytest.MonkeyPatch):
    set_all(alone, {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"})
    with pytest.warns(LaunchWarning, match="2 nodes.*srun"):
        assert multihost.initialize("auto").count == 1
    assert asked == []


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, False),
        ({"https_proxy": "http://p:1"}, True),
        ({"http_proxy": "http://p:1", "no_proxy": "10.0.0.1", "no_grpc_proxy": "elsewhere"}, True),
        ({"HTTPS_PROXY": "http://p:1"}, False),
        ({"grpc_proxy": "http://p:1", "no_proxy": "elsewhere,10.1.0.0/16"}, True),
        ({"http_proxy": ""}, False),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost, 10.0.0.1"}, False),
        ({"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, False),
        ({"http_proxy": "http://p:1", "no_grpc_proxy": "0.0.1"}, False),
    ],
)
def test_warns_of_a_proxy_before_the_coordinator(environ: dict[str, str], warned: bool):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clusters.warn_of_proxies("10.0.0.1:5", environ)
    assert [issubclass(warning.category, LaunchWarning) for warning in caught] == [True] * warned
    assert all("no_proxy=10.0.0.1" in str(warning.message) for warning in caught)


def test_a_domain_in_no_proxy_covers_its_hosts():
    proxy = {"https_proxy": "http://p:1", "no_proxy": ".cluster.local"}
    clusters.warn_of_proxies("node1.cluster.local:5", proxy)
    with pytest.warns(LaunchWarning, match=r"no_proxy=node1\.elsewhere"):
        clusters.warn_of_proxies("node1.elsewhere:5", proxy)


def test_a_touched_device_is_too_late(alone: pytest.MonkeyPatch):
    jax.devices()
    with pytest.raises(LaunchError, match=r"A device was touched before.*initialize first"):
        multihost.initialize("on", "127.0.0.1:5", 2, 0, init_timeout=1)


@pytest.mark.parametrize("error", [RuntimeError("DEADLINE"), OSError("metadata"), ValueError("port in use")])
def test_a_failed_start_says_what_to_check(alone: pytest.MonkeyPatch, error: Exception):
    def initialize(**arguments: object) -> None:
        raise error

    alone.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(LaunchError) as caught:
        multihost.initialize("auto", "10.0.0.1:5", 2, 1, init_timeout=7)
    for word in ("Process 1", "10.0.0.1:5", "within 7 s", "port", "--init_timeout", str(error)):
        assert word in str(caught.value)


def test_errors_that_are_not_of_the_network_pass():
    lost = (
        "UNKNOWN: Gloo all-reduce failed: Connection reset by peer",
        "INTERNAL: NCCL operation ncclAllReduce failed",
    )
    own = ("RESOURCE_EXHAUSTED: Out of memory", "igloo.tsv, line 3: connection closed", "Gloo is no data set")
    assert all(multihost._NETWORK_ERROR.search(text) for text in lost)
    assert not any(multihost._NETWORK_ERROR.search(text) for text in own)


def test_last_words_only_where_the_process_is_gone(tmp_path: Path):
    program = (
        "import os, sys\nfrom slif_jax.multihost import _last_words, leave\n"
        "with _last_words('first \"quoted\" $HOME'):\n    pass\n"
        "try:\n    with _last_words('second'):\n        raise ValueError\nexcept ValueError:\n    pass\n"
        "with _last_words('third \"quoted\" $HOME %d'):\n    os.abort() if sys.argv[1] == 'abort' else None\n"
        "leave(7)"
    )
    done = {}
    for how in ("abort", "leave"):
        command = [sys.executable, "-c", program, how]
        done[how] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done["leave"].returncode == 7, done["leave"].stderr
    assert done["leave"].stderr == ""
    assert done["abort"].returncode == -signal.SIGABRT
    assert done["abort"].stderr.splitlines()[-1] == 'Error: third "quoted" $HOME %d'
    assert "first" not in done["abort"].stderr
    assert "second" not in done["abort"].stderr


def test_two_processes_compute_as_one():
    with start_processes([WORKER, "--job=collectives"]) as processes:
        ended = processes.wait()
    for index, done in enumerate(ended):
        assert done.status == 0, done.output
        found = done.result
        assert (found["index"], found["count"], found["first"]) == (index, 2, index == 0)
        assert found["devices"] == [4, 8]
        rows = np.arange(16.0)
        np.testing.assert_array_equal(found["gathered"], rows)
        np.testing.assert_array_equal(found["sum"], rows.reshape(8, 2).sum(0))
        np.testing.assert_array_equal(found["scattered"], 8 * rows[8 * index : 8 * index + 2])
        np.testing.assert_array_equal(found["sharded"], rows)
        np.testing.assert_array_equal(found["all_hosts"], [0, 0, 1, 1])
        assert found["names"] == 2
        assert "this machine" in found["how"]
        assert f"Process {index} of 2" in done.output
        assert "Error" not in done.output


@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_ends_with_a_message_when_one_is_killed(lost: int):
    """Four devices each: the other hangs in a collective, and JAX ends it; at once without process 0."""
    with start_processes([WORKER, "--job=loop", "--heartbeat_timeout=10"]) as processes:
        for index in (0, 1):
            processes.wait_for("LOOPING", index)
        processes.running[lost].kill()
        done = processes.wait_one(1 - lost, timeout=100)
        assert done.status == -signal.SIGABRT, done.output
        said = processes.last_words(1 - lost)
    assert said.startswith(f"Error: Process {1 - lost} of 2 on {socket.gethostname()} was ended from outside")
    assert f"The other processes: {lost} on {socket.gethostname()}." in said
    assert "same command" in said
    # The line above that it points to.
    words = "leader task" if lost == 0 else r"tasks are unhealthy \(stopped sending heartbeats\):\n1\n"
    assert re.search(words, done.output)


@pytest.mark.parametrize(
    ("job", "status", "words"),
    [
        ("fail", 2, "Error: [Errno 2] No such file or directory: '/nowhere/at/all'"),
        ("bug", 1, "IndexError: list index"),
    ],
)
def test_an_error_in_one_process_ends_all(job: str, status: int, words: str):
    """One device each: the broken connection is an error at once."""
    with start_processes([WORKER, f"--job={job}"], devices_each=1) as processes:
        first, last = processes.wait()
    assert last.status == status, last.output
    assert words in last.output
    assert ("Traceback" in last.output) == (job == "bug")
    assert first.status == 75, first.output
    (said,) = [line for line in first.output.splitlines() if line.startswith("Error: ")]
    assert f"Process 0 of 2 on {socket.gethostname()} lost the connection" in said
    assert f"1 on {socket.gethostname()}" in said
    assert "Gloo" in said
    assert "Traceback" not in first.output


def test_sigterm_ends_a_process():
    """JAX would swallow it: its preemption service waits for a program that asks for it."""
    with start_processes([WORKER, "--job=loop"], devices_each=1) as processes:
        processes.wait_for("LOOPING", 1)
        processes.running[1].terminate()
        assert processes.wait_one(1, timeout=60).status == -signal.SIGTERM
        assert processes.wait_one(0, timeout=60).status == 75


@pytest.mark.parametrize("index", [0, 1])
def test_waiting_in_vain_says_what_to_check(index: int):
    with start_processes([WORKER, "--job=loop", "--init_timeout=3"], start=[index]) as processes:
        (done,) = processes.wait()
        said = processes.last_words(0)
    assert done.status == -signal.SIGABRT
    assert said.startswith(f"Error: Process {index} on {socket.gethostname()} could not join the run")
    assert "within 3 s" in said
    assert "process 0 runs" in said


def test_a_wrong_flag_is_one_line():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, WORKER, "--job=loop", "--process_id=1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --process_id needs --num_processes")


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

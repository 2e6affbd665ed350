"""Launching: what is detected, what is refused, and what is warned of; no process is started."""

import os
import re
import socket
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from jax._src.clusters import ClusterEnv, cloud_tpu_cluster

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

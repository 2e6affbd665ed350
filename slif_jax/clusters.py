"""What the environment says of other processes, and what in it is known to hang or to leave devices idle.

Follows the order and the variables of JAX's own detection; a test holds that the two agree.
"""

import ipaddress
import re
import socket
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # gRPC reads these, in lower case


class LaunchError(ValueError):
    """The processes cannot be brought together; the message says why and what to do."""


class LaunchWarning(UserWarning):
    """The processes start, but probably not as was meant."""


class Cluster(NamedTuple):
    """Who takes part, as the environment has it; None where it does not say.

    `name` in words; `num_processes` in all; `coordinator` without its port; `here` processes on this host; `several`
    hosts. `one_device` is true where JAX gives each process the one GPU with its local number.
    """

    name: str
    num_processes: int | None
    coordinator: str | None = None
    here: int | None = None
    several: bool = False
    one_device: bool = False


def find_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that JAX finds by itself.

    Args:
      environ: environment variables, after jax was imported: it adds those that tell a TPU machine.

    Returns:
      None on a machine by itself.
    """
    if "OMPI_MCA_orte_hnp_uri" in environ:
        address = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", environ["OMPI_MCA_orte_hnp_uri"])
        count = int(environ["OMPI_COMM_WORLD_SIZE"])
        here = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", count))
        coordinator = (address[1] or address[2]) if address else None
        return Cluster("Open MPI", count, coordinator, here, here < count, one_device=True)
    if all(name in environ for name in _SLURM):
        several = int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_JOB_NUM_NODES", "1"))) > 1
        first = re.match(r"([^,\[]*)(?:\[(\w+))?", environ["SLURM_STEP_NODELIST"])
        coordinator = first[1] + (first[2] or "") if first else None
        count = int(environ["SLURM_NTASKS"])
        return Cluster("SLURM", count, coordinator, _slurm_tasks_here(environ), several, one_device=True)
    if "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ:
        return Cluster("Cloud TPU", None)
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if "TPU_ML_PLATFORM" in environ and workers is not None:
        count = len(workers.split(",")) * int(environ.get("MEGASCALE_NUM_SLICES") or 1)
        return Cluster("Cloud TPU on GKE", count, several=count > 1)
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ and find_spec("kubernetes"):
        return Cluster("a Kubernetes Job", None)
    return None


def _slurm_tasks_here(environ: Mapping[str, str]) -> int | None:
    """SLURM writes '2(x3),1': two tasks on each of three nodes, one on the next."""
    words = environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", "")).split(",")
    tasks = [int(found[1]) for word in words if (found := re.match(r"(\d+)", word)) for _ in range(_times(word))]
    node = int(environ.get("SLURM_NODEID", 0))
    return tasks[node] if node < len(tasks) else None


def _times(word: str) -> int:
    found = re.search(r"\(x(\d+)\)", word)
    return int(found[1]) if found else 1


def refuse_what_jax_overlooks(environ: Mapping[str, str]) -> None:
    """Stops where every process would take itself for the only one, and all would write the same files.

    Raises:
      LaunchError: under Open MPI 5, and in a Kubernetes Job with an index without the package that JAX needs.
    """
    if int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1 and "OMPI_MCA_orte_hnp_uri" not in environ:
        raise LaunchError(
            "Open MPI 5 started several processes, and JAX knows the variables of Open MPI 4 only. Start each with "
            "--coordinator_address=HOST_OF_RANK_0:PORT --num_processes=$OMPI_COMM_WORLD_SIZE "
            "--process_id=$OMPI_COMM_WORLD_RANK --local_device_ids=$OMPI_COMM_WORLD_LOCAL_RANK, from a shell that "
            "mpirun starts."
        )
    pod = "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ
    if pod and "TPU_ML_PLATFORM" not in environ and not find_spec("kubernetes"):
        raise LaunchError(
            f"This is pod {environ['JOB_COMPLETION_INDEX']} of a Kubernetes Job, and JAX needs the package kubernetes "
            "to find the others: pip install kubernetes. Or give --coordinator_address, --num_processes and "
            "--process_id=$JOB_COMPLETION_INDEX; a Job of one pod takes --multihost=off."
        )


def warn_outside_a_step(environ: Mapping[str, str]) -> None:
    """Warns in a SLURM job of several nodes where this process was not started by srun."""
    nodes = int(environ.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes > 1 and any(name not in environ for name in _SLURM):
        warnings.warn(
            f"This SLURM job has {nodes} nodes, but only one process runs, on {socket.gethostname()}: start it with "
            "srun, or say --multihost=off.",
            LaunchWarning,
            stacklevel=2,
        )


def refuse_loopback(address: str | None, cluster: Cluster) -> None:
    """Stops where processes of other hosts would look for process 0 on themselves, and wait.

    Args:
      address: the coordinator that was given, or None: the cluster's own.
      cluster: where the processes run.

    Raises:
      LaunchError: if the coordinator is a loopback address and there are several hosts.
    """
    host = host_of(address) if address else cluster.coordinator
    if host and cluster.several and is_loopback(host):
        raise LaunchError(
            f"The coordinator '{address or host}' is a loopback address on {socket.gethostname()}, and {cluster.name} "
            "runs processes on several hosts: each would look for process 0 on itself and wait. Give "
            "--coordinator_address the name or address of process 0's host as the others see it, or mend /etc/hosts."
        )


def host_of(address: str) -> str:
    """The host in 'host:port', '[v6]:port' or 'host'."""
    found = re.fullmatch(r"\[(.+)\](?::\d+)?|([^:]+)(?::\d+)?|(.+)", address)
    return next(filter(None, found.groups())) if found else address


def is_loopback(host: str) -> bool:
    """Whether a host is always this machine itself.

    A machine's own name does not count: many systems resolve it to a loopback address, which is right for process 0.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    if host.split(".")[0] == socket.gethostname().split(".")[0]:
        return False
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)


def num_visible_gpus(environ: Mapping[str, str]) -> int:
    """GPUs that this process may use, as the environment or the device files have it, without touching them."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return len([word for word in environ["CUDA_VISIBLE_DEVICES"].split(",") if word.strip()])
    if environ.get("SLURM_GPUS_ON_NODE", "").isdecimal():
        return int(environ["SLURM_GPUS_ON_NODE"])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdecimal()])


def warn_of_idle_devices(cluster: Cluster, num_gpus: int) -> None:
    """Warns where JAX, which gives each process the GPU with its local number, would leave GPUs idle or find none.

    Args:
      cluster: where the processes run, without local device ids from the user.
      num_gpus: GPUs that this process may use.
    """
    if not cluster.one_device or cluster.here is None:
        return
    every = ",".join(map(str, range(num_gpus)))
    if num_gpus > cluster.here:
        remedy = f"start {num_gpus} processes per host (srun --ntasks-per-node={num_gpus})"
        remedy += f", or give this one all: --local_device_ids={every}." if cluster.here == 1 else "."
        text = f"{num_gpus - cluster.here} of {num_gpus} GPUs of {socket.gethostname()} will be idle: under "
        text += f"{cluster.name} JAX gives each of the {cluster.here} process(es) here one GPU. Either {remedy}"
    elif 0 < num_gpus < cluster.here:
        text = (
            f"{cluster.here} processes run here, and this one sees {num_gpus} GPU(s): under {cluster.name} JAX takes "
        )
        text += (
            f"the GPU with the process's local number, which most do not have. Give --local_device_ids={every} where "
        )
        text += "each process sees GPUs of its own (--gpus-per-task)."
    else:
        return
    warnings.warn(text, LaunchWarning, stacklevel=2)


def warn_of_proxies(address: str | None, environ: Mapping[str, str]) -> None:
    """Warns where the way to the coordinator may lead through a proxy, on which initialisation hangs.

    Args:
      address: the coordinator, with or without its port; None: not known, only an empty `no_proxy` is warned of.
      environ: environment variables.
    """
    used = [name for name in _PROXIES if environ.get(name)]
    host = host_of(address) if address else None
    excepted = [word.strip() for word in (environ.get("no_grpc_proxy") or environ.get("no_proxy", "")).split(",")]
    if not used or (host is None and any(excepted)) or any(_covers(word, host or "") for word in excepted if word):
        return
    warnings.warn(
        f"{', '.join(used)} is set, and no_proxy does not name the coordinator ({host or 'found later'}): the "
        f"processes may not find each other. Set no_proxy={host or 'HOST'}, or unset the proxy.",
        LaunchWarning,
        stacklevel=2,
    )


def _covers(word: str, host: str) -> bool:
    """Whether an entry of `no_proxy` covers a host, as gRPC sees it: the end of a name, or a network; no '*'."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(word, strict=False)
    except ValueError:
        return host.endswith(word)

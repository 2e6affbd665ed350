"""Several processes as one run: `jax.distributed` brings them together, what would hang is refused, the lost are named.

Where JAX ends the process itself (no answer within a timeout), no Python runs any more; a waiting shell then says in
plain words what happened. `docs/launch.md` has what was measured.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from slif_jax import clusters
from slif_jax.clusters import LaunchError

MODES = ("auto", "on", "off")
# At the ordinary end every process waits for the others: host 0 may still be writing.
_END_TIMEOUT = 1800
# As XLA writes them: a status, then what gloo, NCCL or gRPC had to say.
_NETWORK_ERROR = re.compile(
    r"^[A-Z_]+: .*(\bgloo\b|\bnccl|socket closed|connection (reset|closed|refused)|broken pipe|coordination service)",
    re.IGNORECASE | re.DOTALL,
)


class HostLostError(RuntimeError):
    """Another process of this run is gone; nothing can be computed any more."""


@dataclass(frozen=True)
class Hosts:
    """Who takes part: this process is `index` of `count`; `how` says in words how that is known."""

    index: int
    count: int
    how: str


def initialize(
    mode: str = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_device_ids: Sequence[int] | None = None,
    init_timeout: int = 300,
    heartbeat_timeout: int = 100,
) -> Hosts:
    """Brings the processes of a run together, before anything touches a device.

    Args:
      mode: 'auto' joins where arguments, `JAX_COORDINATOR_ADDRESS` or an environment that JAX knows (`clusters`) say
        that there are others; 'on' must join; 'off' never does.
      coordinator_address: 'host:port' of process 0, the same everywhere.
      num_processes: processes of the run.
      process_id: this one's number, from 0.
      local_device_ids: the GPUs of this process, by their number on this host. None: all; under SLURM and Open MPI the
        one with the process's local number.
      init_timeout: seconds to wait for the others.
      heartbeat_timeout: seconds without a sign of life after which a process counts as lost.

    Returns:
      Who takes part; one process where nothing says that there are others.

    Raises:
      LaunchError: where the arguments contradict each other or the environment, would hang, come after a device was
        touched, or the others cannot be joined.
      ValueError: on another `mode`.
    """
    if mode not in MODES:
        raise ValueError(f"`multihost` must be one of {', '.join(MODES)}: got '{mode}'.")
    if mode == "off":
        return Hosts(0, 1, "--multihost=off")
    if jax.distributed.is_initialized():
        return Hosts(jax.process_index(), jax.process_count(), "jax.distributed was initialised before")
    address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    _check_arguments(address, num_processes, process_id)
    complete = address is not None and num_processes is not None
    cluster = clusters.find_cluster(os.environ)
    if not complete:
        clusters.refuse_what_jax_overlooks(os.environ)
        clusters.warn_outside_a_step(os.environ)
        if cluster is None and (mode == "on" or address or num_processes or local_device_ids):
            raise LaunchError(
                "No SLURM step (srun), Open MPI 4, Cloud TPU or Kubernetes Job was found, so --coordinator_address, "
                f"--num_processes and --process_id must all be given: got address {address}, {num_processes} "
                f"processes, process {process_id}, local devices {local_device_ids}. One process needs none of them, "
                "and --multihost=off."
            )
        if cluster is None:
            return Hosts(0, 1, "no sign of other processes")
        if cluster.num_processes == 1 and mode == "auto" and address is None and num_processes is None:
            return Hosts(0, 1, f"{cluster.name} has one process")
    how = f"coordinator {address}" if address or cluster is None else f"found by {cluster.name}"
    if cluster is not None:
        clusters.refuse_loopback(address, cluster)
        if local_device_ids is None and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
            clusters.warn_of_idle_devices(cluster, clusters.num_visible_gpus(os.environ))
    elif address is not None and clusters.is_loopback(clusters.host_of(address)):
        how += ", which is this machine: every process must run on it"
    clusters.warn_of_proxies(address or (cluster.coordinator if cluster else None), os.environ)
    _join(
        f"Process {'' if process_id is None else f'{process_id} '}on {socket.gethostname()} could not join the run "
        f"({how}) within {init_timeout} s. Check that every process was started with the same coordinator and number "
        "of processes, each with its own number; that process 0 runs, on the coordinator's machine; that its port is "
        "free there and open to the others; that the name is the same address everywhere; that no proxy is in between. "
        "A large run needs a larger --init_timeout.",
        coordinator_address=address,
        num_processes=num_processes,
        process_id=process_id,
        local_device_ids=local_device_ids,
        # Where all is given nothing else is asked, such as Google's metadata server.
        cluster_detection_method="deactivate" if complete and cluster is None else None,
        initialization_timeout=init_timeout,
        heartbeat_timeout_seconds=heartbeat_timeout,
        shutdown_timeout_seconds=_END_TIMEOUT,
    )
    return Hosts(jax.process_index(), jax.process_count(), how)


def _check_arguments(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise LaunchError(f"--coordinator_address must be HOST:PORT, such as 10.0.0.1:8476: got '{address}'.")
    if num_processes is None and process_id is None:
        return
    if num_processes is None or process_id is None:
        given, other = ("num_processes", "process_id") if process_id is None else ("process_id", "num_processes")
        raise LaunchError(f"--{given} needs --{other} too: the others would wait for a process that cannot be counted.")
    if not 0 <= process_id < num_processes:
        raise LaunchError(
            f"--process_id must be from 0 to {num_processes - 1} with these --num_processes: got {process_id}."
        )


def _join(advice: str, **arguments: Any) -> None:
    # With this service JAX takes SIGTERM for itself; the programs have a handler of their own.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _last_words(advice):
            jax.distributed.initialize(**arguments)
    except (ValueError, OSError, RuntimeError) as error:
        if "must be called before" in str(error):
            advice = (
                "A device was touched before the processes were brought together. Call slif_jax.multihost.initialize "
                "first: before jax.devices(), any array and any computation."
            )
        raise LaunchError(f"{advice} JAX says: {error}") from error


def is_first() -> bool:
    """Whether this process writes and draws: process 0, or the only one."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def on_any_host(value: bool) -> bool:
    """Whether `value` is true in any process; every process must ask."""
    return bool(np.any(all_hosts_value(np.array([value]))))


def all_hosts_value(x: Any) -> Any:
    """The rows of all processes, everywhere.

    Args:
      x: an array or a tree of them: this process's rows, as many everywhere; or arrays sharded over all devices.

    Returns:
      NumPy arrays: the rows of all below each other, or the whole of a sharded array. In one process `x` itself.
    """
    return x if jax.process_count() == 1 else multihost_utils.process_allgather(x, tiled=True)


def host_names() -> tuple[str, ...]:
    """The machine of each process, in the order of their numbers; every process must ask."""
    letters = np.frombuffer(socket.gethostname().encode()[:64].ljust(64, b"\0"), np.uint8)
    rows = np.asarray(all_hosts_value(letters)).reshape(-1, 64)
    return tuple(row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows)


@contextlib.contextmanager
def lost_hosts_are_named() -> Iterator[None]:
    """Around the work of a run: where another process is lost, this one ends with a sentence that says so.

    A closed connection reaches Python as an error, which becomes `HostLostError`. Otherwise this process hangs in a
    collective until the heartbeat's timeout and is ended by JAX (SIGABRT, status 134); the sentence then follows JAX's
    own words on standard error. In a single process nothing is done.

    Raises:
      HostLostError: where a connection to another process broke. Then `leave`: nothing can be ended in order.
    """
    if jax.process_count() == 1:
        yield
        return
    names, index = host_names(), jax.process_index()
    who = f"Process {index} of {len(names)} on {names[index]}"
    others = [f"{other} on {name}" for other, name in enumerate(names) if other != index]
    listed = ", ".join(others[:16]) + (f" and {len(others) - 16} more" if len(others) > 16 else "")
    remedy = "Read their logs, the earliest error first, then start all of them again with the same command."
    advice = (
        f"{who} was ended from outside. If JAX did it, another process was lost and a line above names it: 'tasks are "
        "unhealthy' comes with its number, 'leader task' is process 0. Without such a line it was killed: memory, or "
        f"the scheduler. The other processes: {listed}. {remedy}"
    )
    with _last_words(advice):
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if not _NETWORK_ERROR.search(str(error)):
                raise
            raise HostLostError(
                f"{who} lost the connection to another process. The others: {listed}. {remedy} JAX says: {error}"
            ) from error


@contextlib.contextmanager
def _last_words(text: str) -> Iterator[None]:
    """Has `text` printed to standard error where this process ends inside without leaving by way of Python.

    A shell waits for a line of input. It gets one when the context is left, and finds the end of its input instead
    where the process is gone.
    """
    command = ["sh", "-c", 'read -r _ || printf "%s\\n" "$0" >&2', f"Error: {text}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as shell:
        try:
            yield
        finally:
            shell.communicate(b"left\n")


def leave(status: int) -> NoReturn:
    """Ends this process at once: in the ordinary way JAX would first wait for processes that wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

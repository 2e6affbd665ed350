"""One of several processes of a test: joins the others as the programs do, runs a job, prints `RESULT <json>`.

    python tests/multihost_worker.py --job=collectives --coordinator_address=... --num_processes=2 --process_id=0

`--job` is a function of this file, or `module:function` of a module beside it. It takes the `Hosts` and returns what
JSON can hold.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from experiments import cli
from slif_jax import multihost
from slif_jax.multihost import Hosts

_JOB = flags.DEFINE_string("job", None, "Function to run.", required=True)


def collectives(hosts: Hosts) -> dict[str, Any]:
    """A sum, a gather and a scattered sum over all devices, and what all processes know of each other."""
    summed, gathered, scattered = (np.asarray(x.addressable_data(0)) for x in _exchange(_rows()))
    mine = np.full((2, 3), float(hosts.index), np.float32)
    return {
        "index": hosts.index,
        "count": hosts.count,
        "how": hosts.how,
        "first": multihost.is_first(),
        "devices": [jax.local_device_count(), jax.device_count()],
        "sum": summed.tolist(),
        "gathered": gathered.tolist(),
        "scattered": scattered.tolist(),
        "all_hosts": multihost.all_hosts_value(mine)[:, 0].tolist(),
        "sharded": multihost.all_hosts_value(_rows()).tolist(),
        "names": len(multihost.host_names()),
    }


def loop(hosts: Hosts) -> None:
    """Sums over all devices until somebody ends it."""
    del hosts
    _loop()


def fail(hosts: Hosts) -> None:
    """As `loop`, but the last process meets an error of its own after a while."""
    _loop(lambda: Path("/nowhere/at/all").read_text() if hosts.index == hosts.count - 1 else None)


def bug(hosts: Hosts) -> None:
    """As `fail`, with an error that is nobody's fault but the program's."""
    _loop(lambda: [][hosts.index] if hosts.index == hosts.count - 1 else None)


def _rows() -> jax.Array:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = np.arange(2 * jax.device_count(), dtype=np.float32)
    return jax.make_array_from_callback(
        rows.shape, NamedSharding(mesh, PartitionSpec("data")), lambda index: rows[index]
    )


@jax.jit
def _exchange(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    def on_each(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        gathered = jax.lax.all_gather(x, "data", tiled=True)
        return jax.lax.psum(x, "data"), gathered, jax.lax.psum_scatter(gathered, "data", tiled=True)

    everywhere, by_row = PartitionSpec(), PartitionSpec("data")
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(
        on_each, mesh=mesh, in_specs=by_row, out_specs=(everywhere, everywhere, by_row), check_vma=False
    )(rows)


def _loop(spoil: Callable[[], object] = lambda: None) -> None:
    rows = _rows()
    for step in range(1_000_000):
        jax.block_until_ready(_exchange(rows))
        if step == 20:
            print(f"LOOPING pid {os.getpid()}", flush=True)
            spoil()
        time.sleep(0.01)


def main() -> None:
    """Runs the job that the flags name."""
    module, _, name = _JOB.value.rpartition(":")
    with cli.several_hosts() as hosts:
        job = getattr(importlib.import_module(module) if module else sys.modules[__name__], name)
        print("RESULT " + json.dumps(job(hosts)))


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    cli.define_launch_flags()
    cli.run(main)

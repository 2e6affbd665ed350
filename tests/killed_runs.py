"""Kills trainings at chosen or random moments, starts them again, and holds what comes out against an unbroken one.

python tests/killed_runs.py --kills=30 --seed=0 --folder=DIR

A process that has imported everything, but has not touched JAX's devices, is forked for every attempt: a start costs
two seconds and not ten. Exit status 0: nothing was lost.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from slif_jax import checkpoint, train, workdir
from slif_jax.config import Config
from slif_jax.train_state import TrainState

CONFIG = Config(
    dataset="synthetic:users=60,items=40,clusters=3,seed=2",
    width=8,
    correlation_neighbors=4,
    feature_neighbors=4,
    correlation_start=1,
    correlation_momentum=0.5,
    batch_size=128,
    knowledge_batch=64,
    consistency_batch=16,
    epochs=8,
    learning_rate=1e-2,
    eval_block=64,
)
PLACES = ("start", "rebuild", "epoch", "metrics", "arrays", "seal", "rename", "prune", "delete", "users", "result")
"""Moments that a clock seldom hits; each is one method at work, see `_hooks`."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_soon() -> None:
    threading.Timer(0.003, _die).start()


def _before(owner: Any, name: str, act: Callable[..., None], *, nth: int = 1) -> None:
    """Has `act` run before the nth call of a function."""
    real, calls = getattr(owner, name), []

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == nth:
            act(*args)
        return real(*args, **kwargs)

    setattr(owner, name, hooked)


def _write_half_a_line(folder: workdir.Workdir, row: dict[str, Any]) -> None:
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(str(row)[:20])
    _die()


def _delete_half(path: Path, *_: Any) -> None:
    for file in sorted(file for file in Path(path).rglob("*") if file.is_file())[::2]:
        file.unlink()
    _die()


def _hook(place: str, nth: int) -> None:
    """Has this process killed at a place, when it comes by there for the nth time."""
    if place in ("rebuild", "epoch"):
        real = train.make_engine

        def engine(*args: Any) -> Any:
            made, name = real(*args), "close_the_loop" if place == "rebuild" else "run_epoch"
            calls = []

            def hooked(state: TrainState) -> Any:
                calls.append(None)
                if len(calls) == nth:
                    _die_soon()  # while it computes
                return getattr(made, name)(state)

            return made._replace(**{name: hooked})

        train.make_engine = engine
    elif place == "start":
        _before(workdir.os, "replace", lambda *_: _die(), nth=nth)
    elif place == "metrics":
        _before(workdir.Workdir, "append_metrics", _write_half_a_line, nth=nth)
    elif place == "arrays":
        _before(ocp.Checkpointer, "save", lambda *_: _die_soon(), nth=nth)
    elif place == "seal":
        _before(checkpoint, "_checksums", lambda *_: _die(), nth=nth)
    elif place == "rename":
        _before(checkpoint.os, "rename", lambda *_: _die(), nth=nth)
    elif place == "prune":
        _before(checkpoint.Checkpoints, "_prune", lambda *_: _die(), nth=nth)
    elif place == "delete":
        _before(checkpoint.shutil, "rmtree", _delete_half, nth=nth)
    elif place == "users":
        _before(train, "save_users", lambda *_: _die())
    elif place == "result":
        _before(train.plots, "plot_run", lambda *_: _die())
    else:
        raise ValueError(place)


def attempt(path: Path, cache: Path, *, place: str = "", nth: int = 1, seconds: float | None = None) -> bool:
    """Starts or resumes a run in a process of its own and kills it at a place, or after some time.

    Args:
      path: folder of the run.
      cache: compiled programs.
      place: one of `PLACES`, or '' for none.
      nth: how often the process comes by there.
      seconds: time after which it is killed; None for no clock.

    Returns:
      Whether the run came to its end; False if it was killed.
    """

    def run() -> None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
        if place:
            _hook(place, nth)
        train.train_and_evaluate(CONFIG, path, progress="off", checkpoint_every=2)

    status = _in_a_child(run, seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise AssertionError(f"the run in {path} ended with status {status}")
    return True


def _in_a_child(work: Callable[[], None], seconds: float | None = None) -> int:
    """The wait status of a fork that does some work, and is killed after some time."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    clock = threading.Timer(3600.0 if seconds is None else seconds, os.kill, (child, signal.SIGKILL))
    clock.start()
    _, status = os.waitpid(child, 0)
    clock.cancel()
    clock.join()
    return status


def differences(path: Path, unbroken: Path) -> list[str]:
    """What a run that was killed has otherwise than the unbroken one: numbers, values per user, every saved array."""
    found = []
    ours, theirs = workdir.Workdir(path), workdir.Workdir(unbroken)
    if (path / "metrics.jsonl").read_text() != (unbroken / "metrics.jsonl").read_text():
        found.append("metrics.jsonl differs")
    results = [folder.read_json("result.json") or {} for folder in (ours, theirs)]
    for result in results:
        for name in ("seconds", "peak_memory_bytes"):  # the clock is all that may differ
            result.pop(name)
    found += [f"{name} of result.json differs" for name in results[1] if results[0].get(name) != results[1][name]]
    with np.load(path / "test_users.npz") as file, np.load(unbroken / "test_users.npz") as other:
        found += [f"{name} of test_users.npz differs" for name in other.files if not _same(file[name], other[name])]
    states = [_last_state(folder) for folder in (path, unbroken)]
    flat = [jax.tree_util.tree_flatten_with_path(state)[0] for state in states]
    found += [f"{jax.tree_util.keystr(at)} differs" for (at, x), (_, y) in zip(*flat, strict=True) if not _same(x, y)]
    names = [{str(file.relative_to(folder).parts[0]) for file in folder.rglob("*")} for folder in (path, unbroken)]
    if names[0] != names[1]:
        found.append(f"files: {sorted(names[0] ^ names[1])}")
    return found


def _compare(path: Path, unbroken: Path) -> None:
    found = differences(path, unbroken)
    print(f"    {'; '.join(found) or 'nothing lost'}")
    if found:
        raise AssertionError(f"{path} differs from {unbroken}")


def _same(x: Any, y: Any) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()


def _last_state(path: Path) -> Any:
    checkpoints = checkpoint.Checkpoints(path / "checkpoints", CONFIG)
    folder = path / "checkpoints" / str(checkpoints.epochs()[-1])
    checkpoints.close()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        return reader.restore(folder / "state")


@contextlib.contextmanager
def _timed() -> Iterator[list[float]]:
    taken, start = [], time.monotonic()
    yield taken
    taken.append(time.monotonic() - start)


def main(kills: int, seed: int, folder: Path) -> int:
    """Kills runs until there were as many kills as asked for; prints what it did.

    Returns:
      How many runs differ from the unbroken one.
    """
    draw, unbroken = random.Random(seed), folder / "unbroken"
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", folder / "compiled"))
    attempt(unbroken, cache)  # compiles
    with _timed() as taken:
        attempt(folder / "again", cache)
    length, done, lost, deaths = taken[0], 0, 0, []
    places = list(PLACES)
    draw.shuffle(places)
    run = 0
    while done < kills:
        run, path, deaths, over = run + 1, folder / f"run{run + 1}", [], False
        while not over:
            left = done < kills and len(deaths) < 8
            if left and places and len(deaths) % 2 == 0:
                place, nth = places.pop(), draw.randint(1, 2) if not deaths else 1
                over, moment = attempt(path, cache, place=place, nth=nth), f"{place} {nth}"
                if over:  # the run did not come by there any more: another one will
                    places.append(place)
            elif left:
                seconds = draw.uniform(0.2 * length, length)
                over, moment = attempt(path, cache, seconds=seconds), f"{seconds:.2f} s"
            else:
                over, moment = attempt(path, cache), ""
            if not over:
                saved = [int(p.name) for p in (path / "checkpoints").glob("*") if p.name.isdecimal()]
                deaths.append(f"{moment} (epoch {max(saved, default=0)} saved)")
                done += 1
        print(f"run {run}, killed {len(deaths)} times: {', '.join(deaths)}")
        lost += _in_a_child(lambda path=path: _compare(path, unbroken)) != 0
    print(f"{done} kills, {run} runs of {CONFIG.epochs} epochs: {lost or 'none'} differ from the unbroken run.")
    return lost


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main(given.kills, given.seed, given.folder) > 0)

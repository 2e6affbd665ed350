"""Two real processes compute as one, and end with a message where one of them is lost."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, run_program
from two_hosts import WORKER, start_processes


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
    """Four devices each: the other hangs in a collective, and JAX ends it; at once without process 0.

    Now and then the broken connection reaches Python before JAX does so.
    """
    with start_processes([WORKER, "--job=loop", "--heartbeat_timeout=10"]) as processes:
        for index in (0, 1):
            processes.wait_for("LOOPING", index)
        processes.running[lost].send_signal(signal.SIGKILL)
        done = processes.wait_one(1 - lost, timeout=100)
        assert done.status in (-signal.SIGABRT, 75), done.output
        said = processes.last_words(1 - lost)
    found_by_python = done.status == 75
    what, others = ("lost the connection", "The others") if found_by_python else ("was ended", "The other processes")
    assert said.startswith(f"Error: Process {1 - lost} of 2 on {socket.gethostname()} {what}")
    assert f"{others}: {lost} on {socket.gethostname()}." in said
    assert "same command" in said
    # The line above that it points to.
    words = "leader task" if lost == 0 else r"tasks are unhealthy \(stopped sending heartbeats\):\n1\n"
    assert found_by_python or re.search(words, done.output)


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
        processes.running[1].send_signal(signal.SIGTERM)
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
    done = run_program([WORKER, "--job=loop", "--process_id=1"])
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --process_id needs --num_processes")

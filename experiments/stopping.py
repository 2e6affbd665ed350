"""SIGTERM and Ctrl-C: the first has a training saved and ended after the epoch, the second ends it at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from slif_jax import multihost
from slif_jax.workdir import Stopped

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 75}
"""Exit status by signal. 75 is EX_TEMPFAIL: the same command goes on."""


class StopRequest:
    """Whether a signal has come. Called before every epoch; from the first call on, an epoch is brought to its end."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._epochs = False

    def __call__(self) -> bool:
        self._epochs = True
        return self.signal is not None

    def take(self, number: signal.Signals) -> None:
        """Notes a signal, or ends the process: at the second one, or where there is no epoch to bring to an end."""
        if self.signal is None and self._epochs:
            self.signal = number
            print(f"{number.name}: stopping after this epoch, and saving. Once more stops at once.", file=sys.stderr)
            return
        end_at_once(number)


def end_at_once(number: signal.Signals) -> NoReturn:
    """Ends the process with the status of a signal."""
    print("Stopped. Trainings and studies go on where they were with the same command.", file=sys.stderr)
    # Not in order: threads of JAX may still be at work, and taking the process apart under them crashes.
    multihost.leave(STATUS[number])


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Takes SIGINT and SIGTERM; to be entered by the main thread.

    Python's own handlers wait until the running computation is done, which may be minutes. So a thread reads the
    numbers of the signals as they come, answers at once, and ends the process where that is due.

    Yields:
      The request, which becomes true.

    Raises:
      SystemExit: with the status of the signal, where a training has stopped as requested.
    """
    request = StopRequest()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] in STATUS:
                request.take(signal.Signals(number[0]))

    before = {number: signal.signal(number, lambda *_: None) for number in STATUS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield request
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(STATUS[request.signal or signal.SIGTERM])  # another process of the run may have had the signal
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)

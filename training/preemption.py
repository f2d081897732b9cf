"""SIGTERM and Ctrl-C ask the loop to stop after the current step, save, and exit.

Used by the loop. A second signal ends the process at once.
"""

import contextlib
import signal
import threading


class Preempted(SystemExit):
    """Raised after the save. The exit status is 128 + signal: 143 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, number=signal.SIGTERM):
        super().__init__(128 + number)


class Stop:
    """A flag that a signal sets.

    Attributes:
      signal: number of the signal; SIGTERM until one arrives, as another process may receive it.
    """

    def __init__(self):
        self.requested, self.signal = False, signal.SIGTERM

    def __bool__(self):
        return self.requested


@contextlib.contextmanager
def watch():
    """Yields a Stop and restores the handlers afterwards. Outside the main thread it is never set."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number, frame):
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.requested, stop.signal = True, number

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)

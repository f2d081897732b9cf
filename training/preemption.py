"""SIGTERM and Ctrl-C become a request to stop after this update, save, and exit with 143.

Used by the loop; a second signal ends the process at once.
"""

import contextlib
import signal
import threading


class Preempted(SystemExit):
    """Raised by the entry points after the save; carries exit status 143."""

    def __init__(self):
        super().__init__(143)


class Stop:
    """A flag that a signal sets."""

    def __init__(self):
        self.requested = False

    def __bool__(self):
        return self.requested


@contextlib.contextmanager
def watch():
    """Yields a Stop; restores the handlers afterwards. Outside the main thread it never fires."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number, frame):
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.requested = True

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)

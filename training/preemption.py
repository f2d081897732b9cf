"""SIGTERM, Ctrl-C and training.max_hours: the train loop stops after the current step, saves, and exits;
outside of it Ctrl-C ends the program. Used by the loop and by training/cli.py.
"""

import _thread
import contextlib
import math
import os
import signal
import sys
import threading
import time

_INSIST_SECONDS = 0.3
started = (
    None  # time.monotonic() at the start of an entry file; None for a run inside another program
)


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


def deadline(hours: float) -> float:
    """When a run of `training.max_hours` stops, by time.monotonic(); infinity for 0.

    Counted from the start of the program, so that reading data and compilation count too; of a run inside
    another program from now."""
    since = time.monotonic() if started is None else started
    return since + 3600 * hours if hours else math.inf


@contextlib.contextmanager
def watch():
    """Yields a Stop and restores the handlers afterwards. Outside the main thread it is never set. A
    second signal ends the process at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number, frame):
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.requested, stop.signal = True, number
        # Not by print, which a signal may have interrupted.
        os.write(2, b"stopping after this step and a save; a second signal ends the run at once\n")

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def insistent_interrupts():
    """Ctrl-C raises KeyboardInterrupt again until it ends the block: an exception that is raised within a
    finalizer or a callback of a library is dropped. Yields an Event that is set by the first Ctrl-C."""
    interrupted, ended = threading.Event(), threading.Event()
    main = threading.main_thread()
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # nohup ignores it
        yield interrupted
        return

    def insist():
        while not ended.wait(_INSIST_SECONDS):
            found = sys._current_exceptions().get(main.ident)
            found = found[1] if isinstance(found, tuple) else found  # Python 3.11
            if not isinstance(found, KeyboardInterrupt):  # no `finally` is handling it
                _thread.interrupt_main()

    def handler(number, frame):
        if not interrupted.is_set():
            interrupted.set()
            threading.Thread(target=insist, daemon=True).start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    try:
        yield interrupted
    finally:
        ended.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def deferred_interrupts():
    """A first Ctrl-C within the block takes effect at its end, so that what it writes is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, caught = signal.getsignal(signal.SIGINT), []

    def handler(number, frame):
        caught.append(number)
        if len(caught) > 1:
            before(number, frame)

    if not callable(before):  # nohup ignores it
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        before(signal.SIGINT, None)

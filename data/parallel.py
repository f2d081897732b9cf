"""Runs work items of data/writer.py, in this process or in several, with progress.

Worker processes import `data/` only: neither the caller's main file nor JAX.
"""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
import types
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from data import writer
from data.sources import Source
from data.tokenizer import Tokenizer, load
from data.writer import WorkItem

_POLL_SECONDS = 0.5


class Progress:
    """Bytes of the source that are done: a bar on a terminal, a line every 30 s in a log."""

    def __init__(self, total: int, name: str, log):
        self._format = {"total": total, "unit": "B", "unit_scale": True}
        self._bar = tqdm(desc=name, disable=None, leave=False, **self._format)
        self._name, self._log, self._done = name, log, 0
        self._started = self._logged = time.monotonic()

    def add(self, consumed: int) -> None:
        """Counts more bytes as done."""
        self._done += consumed
        self._bar.update(consumed)
        now = time.monotonic()
        if self._bar.disable and now - self._logged > 30:
            elapsed = now - self._started
            meter = tqdm.format_meter(self._done, elapsed=elapsed, ncols=0, **self._format)
            self._log(f"{self._name}: {meter}")
            self._logged = now

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()


def run(
    source: Source,
    tokenizer: Tokenizer,
    items: list[WorkItem],
    directory: Path,
    validation_fraction: float,
    workers: int,
    progress: Progress,
) -> None:
    """Writes every item. The first error stops all processes and is raised; finished items are kept.

    `directory` holds tokenizer.json. Raises OSError of one line if a process dies.
    """
    if workers <= 1:
        for item in items:
            writer.write_item(source, tokenizer, item, directory, validation_fraction, progress.add)
        return
    context = multiprocessing.get_context("spawn")
    # One slot per item, then the stop flag. Each slot has one writer, so no lock is needed: a killed
    # process would hold it forever.
    shared = context.RawArray("q", len(items) + 1)
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        context,
        initializer=_start_worker,
        initargs=(source, directory, validation_fraction, shared),
    )
    done = 0
    try:
        with _without_main(), _without_interrupts():  # an item that is submitted starts a process
            left = {pool.submit(_run_item, slot, item) for slot, item in enumerate(items)}
        while left:
            finished, left = concurrent.futures.wait(
                left, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                future.result()
            consumed = sum(shared[:-1])
            progress.add(consumed - done)
            done = consumed
    except (BrokenProcessPool, OSError) as error:
        # The pool's own pipe, where a process dies while work is handed out.
        if not isinstance(error, BrokenProcessPool) and str(error) != "handle is closed":
            raise
        # The pool loses track of a process that started while it noticed the death.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
            process.join()
        raise OSError(
            "a tokenization process died, perhaps for lack of memory: set data.workers lower and start "
            "again; finished work is kept"
        ) from error
    finally:
        shared[-1] = True
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_main():
    """Hides the caller's main file from new processes, which would import it, and JAX with it."""
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _without_interrupts():
    """Blocks Ctrl-C in new processes, from their first instruction; it reaches this one after the block.

    A process that Ctrl-C killed would break the pool, which then kills the others in the middle of a file.
    """
    multiprocessing.resource_tracker.ensure_running()  # its start unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- In a worker process ------------------------------------------------------------------------------

_job = ()


def _start_worker(source, directory, validation_fraction, shared) -> None:
    global _job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    tokenizer = load(directory / "tokenizer.json")
    _job = (source, tokenizer, directory, validation_fraction, shared)


def _exit_with_parent() -> None:
    """A killed parent cannot stop its workers, and a later run must not meet them."""
    parent = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


def _run_item(slot: int, item: WorkItem) -> None:
    source, tokenizer, directory, validation_fraction, shared = _job

    def progress(consumed):
        if shared[-1]:
            raise InterruptedError("stopped")
        shared[slot] += consumed

    writer.write_item(source, tokenizer, item, directory, validation_fraction, progress)

"""Tokenization in several processes: errors, killed workers, Ctrl-C, and which modules a worker imports."""

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from corpora import ARGUMENTS, PATHS, documents, prepared, write

from data import prepare as prepare_
from training.schema import TokenizerConfig


@pytest.fixture
def in_parallel(tmp_path, corpus, small_items, monkeypatch):
    """Settings of `prepared` for two worker processes and a tokenizer that exists."""
    prepared(tmp_path, corpus).tokenizer.save(tmp_path / "tokenizer.json")
    shutil.rmtree(tmp_path / "cache" / "stores")
    monkeypatch.setattr(prepare_, "_MIN_PARALLEL_BYTES", 0)
    return {"tokenizer": TokenizerConfig(path=str(tmp_path / "tokenizer.json")), "workers": 2}


def partial_of(tmp_path):
    return next((tmp_path / "cache" / "stores").glob("*.partial"))


def test_an_error_in_a_worker_is_one_line_and_finished_items_are_kept(
    tmp_path, corpus, in_parallel
):
    bad = tmp_path / "3.txt"
    good = bad.read_bytes()
    bad.write_bytes(good + b"\n\nna\xefve\n")
    with pytest.raises(ValueError, match="3.txt is not UTF-8 at byte") as caught:
        prepared(tmp_path, corpus, **in_parallel)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    records = list((partial_of(tmp_path) / "items").glob("*.json"))
    assert records and not list(partial_of(tmp_path).glob("*/*.tmp"))


def test_a_worker_that_is_killed_is_one_error_and_the_next_run_finishes(
    tmp_path, corpus, in_parallel
):
    write(tmp_path / "0.txt", documents(3000))
    killed = []

    def kill():
        while len(children := multiprocessing.active_children()) < in_parallel["workers"]:
            time.sleep(0.01)
        killed.append(children[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(OSError, match="tokenization process died.*set data.workers lower") as e:
        prepared(tmp_path, corpus, **in_parallel)
    thread.join()
    assert killed and "\n" not in str(e.value) and not multiprocessing.active_children()
    assert prepared(tmp_path, corpus, **in_parallel).train[0].num_documents > 3000


def running_workers(process):
    """The worker processes of a process, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process.pid and "spawn_main" in command:
            found.append(int(path.name))
    return found


@pytest.mark.parametrize(
    "stop, when",
    [
        (signal.SIGINT, "an item is finished"),
        (signal.SIGINT, "the processes start"),
        (signal.SIGKILL, "an item is finished"),
    ],
)
def test_workers_stop_with_their_parent_and_finished_items_are_kept(
    tmp_path, corpus, in_parallel, stop, when
):
    for number in range(4):
        write(tmp_path / f"{number}.txt", documents(3000, seed=number))
    code = (
        PATHS
        + (
            "from pathlib import Path; from corpora import ARGUMENTS, PATHS, prepared\n"
            "from data import prepare\n"
            "from training.schema import TokenizerConfig\n"
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # nohup ignores it
            "prepare._MIN_ITEM_BYTES, prepare._MIN_PARALLEL_BYTES = 6000, 0\n"
            "tokenizer = TokenizerConfig(path=sys.argv[3] + '/tokenizer.json')\n"
            "prepared(Path(sys.argv[3]), sys.argv[4], tokenizer=tokenizer, workers=2)\n"
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *ARGUMENTS, str(tmp_path), corpus],
        start_new_session=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    stores = tmp_path / "cache" / "stores"
    deadline = time.monotonic() + 600
    while len(workers := running_workers(process)) < 2 or (
        when == "an item is finished" and not list(stores.glob("*.partial/items/*.json"))
    ):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # Ctrl-C on a terminal reaches the workers too
    else:
        process.kill()
    error = process.communicate(timeout=300)[1].decode()
    if stop == signal.SIGINT:
        assert error.rstrip().endswith("KeyboardInterrupt") and error.count("Traceback") == 1, error
        assert not list(partial_of(tmp_path).glob("*/*.tmp"))
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    finished = len(list((partial_of(tmp_path) / "items").glob("*.json")))
    lines = []
    prepared(tmp_path, corpus, log=lines.append, **in_parallel)
    assert not finished or any(
        f"{finished} of" in line and "are finished" in line for line in lines
    )
    assert finished or when == "the processes start"


def test_a_worker_imports_neither_jax_nor_other_packages_of_ours(
    tmp_path, corpus, in_parallel, monkeypatch
):
    modules = []

    class Asks(concurrent.futures.ProcessPoolExecutor):
        def shutdown(self, **options):
            modules.extend(self.submit(eval, "list(__import__('sys').modules)").result())
            super().shutdown(**options)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Asks)
    prepared(tmp_path, corpus, **in_parallel)
    assert "data.writer" in modules and "tokenizers" in modules
    packages = {name.partition(".")[0] for name in modules}
    assert not packages & {"jax", "flax", "grain", "tensorflow_datasets", "pytest"}
    assert not packages & {"models", "objectives", "tasks", "training", "corpora"}


def test_a_worker_does_not_run_the_main_file(tmp_path, corpus):
    """The main file of a caller, such as train.py, imports JAX."""
    main = tmp_path / "main.py"
    main.write_text(
        PATHS + "from pathlib import Path\n"
        "Path(sys.argv[3], 'run-as-' + __name__).touch()\n"
        "from corpora import ARGUMENTS, PATHS, prepared\n"
        "from data import prepare\n"
        "prepare._MIN_ITEM_BYTES, prepare._MIN_PARALLEL_BYTES = 6000, 0\n"
        "prepared(Path(sys.argv[3]), sys.argv[4], print, workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, str(main), *ARGUMENTS, str(tmp_path), corpus],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "in 2 processes" in done.stdout
    assert [p.name for p in tmp_path.glob("run-as-*")] == ["run-as-__main__"]


# ---- Corpora ------------------------------------------------------------------------------------------

"""Setup of every test: four CPU devices, rank promotion is an error, programs compile fast and are kept.

Warnings are errors (setup.cfg).
"""

import gc
import importlib.metadata
import logging
import os
import pathlib
import resource
import signal
import tempfile

# Before JAX is imported: the number of devices cannot change later. Devices that share a busy core meet
# late, and XLA ends a process whose devices have not met in 40 seconds. Most of the time of a test is
# compilation of a program that runs a few times: without optimizations it takes a third.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    " --xla_cpu_collective_call_terminate_timeout_seconds=300"
    # JAX 0.12 does not know this flag and ends the process.
     + " --xla_cpu_use_fusion_emitters=false" * (importlib.metadata.version("jaxlib") < "0.12")
).strip()
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

# A shell starts programs in the background with SIGINT ignored, which their children inherit: the tests that
# interrupt a program could not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled steps are shared between tests, processes of one test (restarts) and test runs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "triptych-test-xla")
)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
gc.set_threshold(100_000, 20, 100)  # tracing makes many objects and little garbage

# Files of few tests that take minutes: they start first, or one worker ends alone with them.
LONG = ("test_processes.py", "test_resume.py", "test_shipped.py", "test_bad_input.py",
        "test_word_vectors.py", "test_objective_matrix.py", "test_config_fields.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def resident_bytes():
    """Memory of this process; without /proc, more than any limit."""
    statm = pathlib.Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 2**63
    return pages * resource.getpagesize()


@pytest.fixture(autouse=True, scope="module")
def a_large_worker_forgets_its_programs():
    """A worker that kept every program it compiled would grow to several GiB."""
    yield
    if resident_bytes() > 1.5 * 2**30:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def log_ends_with_its_test():
    """A command line sends the log to the console; the next test captures it again."""
    yield
    log = logging.getLogger("triptych")
    log.handlers.clear()
    log.propagate = True

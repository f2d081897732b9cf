"""Set-up of every test: four CPU devices, rank promotion is an error, the compilation cache is on.

Warnings are errors where setup.cfg says so.
"""

import os
import tempfile

# Before JAX is imported: the number of devices cannot change later. Devices that share one busy core
# meet late, and XLA ends a process whose devices have not met in 40 seconds.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    " --xla_cpu_collective_call_terminate_timeout_seconds=300"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled steps are shared between tests, processes of one test (restarts) and test runs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "triptych-test-xla")
)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Files of few tests that take minutes: they begin first, or one worker ends alone with them.
LONG = ("test_processes.py", "test_resume.py", "test_shipped.py", "test_bad_input.py",
        "test_word_vectors.py", "test_cube.py", "test_own_parameters.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True, scope="module")
def programs_end_with_their_file():
    """A worker that kept every program it compiled would grow to several GiB."""
    yield
    jax.clear_caches()

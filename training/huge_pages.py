"""Huge pages for the memory of a program. Imports no JAX."""

import contextlib
import os
import pathlib
import sys

MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use():
    """Starts the program again with transparent huge pages for malloc, where Linux and glibc have them.

    XLA allocates the memory of a step anew each time. With pages of 4 KiB, page faults take up to a fourth
    of a train step on a CPU (docs/performance.md). glibc reads the setting only when a process starts. The
    process keeps its number, arguments and files. An environment variable GLIBC_TUNABLES that is set, also
    to nothing, is left as it is. Where Linux uses huge pages always or never, there is nothing to do.
    """
    main = sys.modules["__main__"]
    if TUNABLES in os.environ or not getattr(main, "__file__", None) or not _is_possible():
        return
    os.environ[TUNABLES] = HUGE_PAGES
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_possible():
    """Whether the kernel leaves the choice to programs, and malloc has one (glibc 2.35)."""
    try:
        name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
        release = tuple(map(int, version.split(".")[:2]))
        return "[madvise]" in MODE.read_text() and name == "glibc" and release >= (2, 35)
    except (OSError, ValueError, AttributeError):  # another C library or operating system
        return False

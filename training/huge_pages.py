"""Huge pages for the memory of a program. Imports no JAX."""

import os
import pathlib
import sys

MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use():
    """Re-executes the program with transparent huge pages for malloc, where Linux and glibc have them.

    XLA allocates the memory of a step anew each time. With pages of 4 KiB, steps of small models on a CPU
    took 1.24 times as long (docs/performance.md). glibc reads the setting only when a process starts. The
    program keeps its PID, arguments and open files. An existing GLIBC_TUNABLES, even an empty one, is
    respected. Where Linux uses huge pages always or never, there is nothing to do.
    """
    if TUNABLES in os.environ or not is_possible() or not _is_main():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ[TUNABLES] = HUGE_PAGES
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:
        del os.environ[TUNABLES]


def is_possible():
    """Whether the kernel leaves the choice to programs, and malloc has one (glibc 2.35)."""
    try:
        name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
        release = tuple(map(int, version.split(".")[:2]))
        return "[madvise]" in MODE.read_text() and name == "glibc" and release >= (2, 35)
    except (OSError, ValueError, AttributeError):  # another C library or operating system
        return False


def _is_main():
    """Whether the interpreter was started for this program, as `python FILE` or `python -m NAME`, so that the
    same command starts it again: not by a notebook, a debugger, a profiler, a pipe or -c."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None) or ""
    if not sys.executable or sys.gettrace() or not os.path.isfile(file):
        return False
    # Options of the interpreter, then the name of the program.
    words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if spec := getattr(main, "__spec__", None):
        names = (spec.name, spec.name.removesuffix(".__main__"))
        return words[-2:-1] == ["-m"] and words[-1] in names
    return words[-1:] == [sys.argv[0]] and "-m" not in words and os.path.samefile(words[-1], file)

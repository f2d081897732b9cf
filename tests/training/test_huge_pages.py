"""A program has huge pages where the machine has them, and is otherwise as it was started."""

import os
import pathlib
import subprocess
import sys

import pytest

from training import huge_pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from training import cli

def main(argv):
    print(os.environ.get("GLIBC_TUNABLES"), os.getpid(), argv, sys.stdin.read())

if __name__ == "__main__":
    cli.main(main)
"""


@pytest.mark.parametrize("given", [None, "", "glibc.malloc.check=0"])
def test_a_program_starts_again_with_huge_pages_unless_the_user_chose(tmp_path, given):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.TUNABLES}
    if given is not None:
        environment[huge_pages.TUNABLES] = given
    process = subprocess.Popen(
        [sys.executable, "-X", "utf8", file, "--a=b c"], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = process.communicate("input")
    expected = huge_pages.HUGE_PAGES if huge_pages.is_possible() else None
    expected = expected if given is None else given
    assert output == f"{expected} {process.pid} ['--a=b c'] input\n" and process.returncode == 0


def test_the_machine_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages, "MODE", tmp_path / "enabled")
    assert not huge_pages.is_possible()  # no such file
    for mode, possible in (("always [madvise] never", True), ("[always] madvise never", False)):
        (tmp_path / "enabled").write_text(mode)
        for version, is_new in (("glibc 2.36", True), ("glibc 2.31", False)):
            monkeypatch.setattr(os, "confstr", lambda name, version=version: version)
            assert huge_pages.is_possible() == (possible and is_new)
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert not huge_pages.is_possible()

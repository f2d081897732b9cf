"""benchmarks/gpu.sh, which no test machine has the device for: its parts with tiny shapes on a CPU."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from benchmarks import gpu


@pytest.fixture
def given(tmp_path):
    return argparse.Namespace(output=tmp_path, rounds=1, dry_run=True, until=float("inf"))


EXPECTED = {
    "kernels": {"attention": "causal", "kernel": "triton", "equal": True},
    "ladder": {"model": "encoder 150M", "aim": 0.5},
    "packing": {"architecture": "encoder", "kernel": "chunked", "documents": 8},
    "memory": {"architecture": "encoder", "kernel": "auto"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_part_yields_its_numbers(name, given):
    about, measure = next(gpu.PARTS[name][0](given))
    record = about | measure()
    assert record.items() >= EXPECTED[name].items()
    numbers = [value for value in record.values() if type(value) is float]
    assert numbers and all(value >= 0 for value in numbers)


def test_faults_missing_packages_and_the_end_of_the_time_are_lines_of_the_tables(
    given, monkeypatch
):
    def fails():
        raise ValueError("one\nfault")

    def part(given):
        """What is measured."""
        yield {"case": 1}, lambda: {"ms": 2.0}
        yield {"case": 2}, fails
        given.until = 0.0
        yield {"case": 3}, lambda: pytest.fail("the time is over")

    def lacking(given):
        """Something else."""
        raise ModuleNotFoundError(name="no_such_package")
        yield

    monkeypatch.setattr(gpu, "PARTS", {"one": (part, 1.0), "other": (lacking, 1.0)})
    for name in gpu.PARTS:
        gpu.run_part(name, given)
    gpu.write_tables(given.output)
    page = (given.output / "gpu.md").read_text()
    assert "| 1 | 2 |  |" in page and "| 2 |  | ValueError: one fault |" in page
    assert "the rest, for lack of time" in page and "the package no_such_package is missing" in page


def run(folder, *flags, **options):
    command = ["bash", "benchmarks/gpu.sh", str(folder), "--dry_run", "--rounds=1", *flags]
    environment = {**os.environ, "PYTHON": sys.executable, "XLA_FLAGS": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def test_the_script_ends_in_time_with_what_it_has(tmp_path):
    done = run(tmp_path, "--minutes=0.1", timeout=300)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "gpu.json").read_text())
    assert [each["part"] for each in records] == list(gpu.PARTS)
    assert all(each["skipped"] == "for lack of time" for each in records)
    assert "choose another directory" in run(tmp_path, timeout=300).stderr


@pytest.mark.slow
def test_a_dry_run_measures_every_part(tmp_path):
    done = run(tmp_path, "--minutes=30")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "gpu.json").read_text())
    for name in gpu.PARTS:
        found = [each for each in records if each["part"] == name and "device" not in each]
        assert found and not any({"error", "skipped"} & each.keys() for each in found), found

"""The tour: its notebook has the same cells, and its commands run, tiny, and make its pictures."""

import json
import os
import re
import shlex
import subprocess
import sys

import tour

CELLS = tour.cells(tour.PAGE.read_text(encoding="utf-8"))
# Flags that make each program small, and what replaces the sweep's size.
TINY = {
    "train.py": "--config.training.duration='2 steps' --config.evaluation.num_batches=1",
    "finetune.py": "--config.training.duration='4 steps'",
    "studies.landscape": "--num_examples=8 --points=2 --grid=2 --probes=1 --lanczos_steps=2",
}
SWEEP = "three_ways.py:layers=1,pretraining=2_steps,finetuning=2_steps,labels=20,seeds=1"


def tiny(command: str) -> str:
    """A command of the tour, with its lengths and sizes made small."""
    command = command.replace("num_train_examples=1000", "num_train_examples=40")
    command = re.sub(r"--num_examples=\d+", "", command).replace(
        "three_ways.py:preset=study", SWEEP
    )
    program = re.match(r"python (?:-m )?(\S+)", command)
    return f"{command} {TINY.get(program[1], '')}" if program else command


def test_the_notebook_is_the_page():
    expected = tour.notebook(tour.PAGE.read_text(encoding="utf-8"))
    assert tour.NOTEBOOK.read_text(encoding="utf-8") == expected, "run python tests/tour.py"
    assert all((tour.DOCS / cell.copy).is_file() for cell in CELLS if cell.kind == "picture")


def test_the_commands_of_the_tour_run_and_make_its_pictures(tmp_path):
    bin_directory = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "tour").mkdir()
    for cell in CELLS:
        for command in tour.commands(cell) if cell.kind == "commands" else ():
            command = tiny(command).replace("runs/", f"{shlex.quote(str(tmp_path))}/")
            ended = subprocess.run(
                ["bash", "-c", command], cwd=tour.DOCS.parent, env=environment, capture_output=True, text=True
            )  # fmt: skip
            assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        if cell.kind == "picture":
            file = tmp_path / cell.text.removeprefix("runs/")
            assert file.read_bytes().startswith(b"\x89PNG")


def test_a_page_becomes_cells():
    page = (
        "# T\n\nText.\n\n    python a \\\n        --b\n    echo c\n\n```\nout\n\nput\n```\n\n"
        "![A plot](tour/p.png)\n<!-- runs/p.png -->\n"
    )
    found = tour.cells(page)
    assert found == [
        tour.Cell("text", "# T\n\nText."),
        tour.Cell("commands", "python a \\\n    --b\necho c"),
        tour.Cell("picture", "runs/p.png", "tour/p.png"),
    ]
    assert tour.commands(found[1]) == ["python a --b", "echo c"]
    sources = ["".join(cell["source"]) for cell in json.loads(tour.notebook(page))["cells"]]
    assert sources[2] == "!python a --b\n!echo c" and "Image('runs/p.png')" in sources[3]

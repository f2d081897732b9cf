"""A tokenising process: `python -m data.worker`, started by `data.prepare`, one unit per line.

A program of its own, not multiprocessing, which would import the caller's main file and JAX with it.
"""

import json
import sys
from pathlib import Path

from data.sources import Piece, from_json
from data.tokenizer import load
from data.writer import Unit, write_unit


def main() -> None:
    """Reads a job and then units from stdin, answers in lines of JSON on stdout."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries that print must not answer for us
    job = json.loads(sys.stdin.readline())
    source, tokenizer = from_json(job["source"]), load(job["tokenizer"])

    def answer(**record):
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    for line in sys.stdin:
        record = json.loads(line)
        pieces = tuple(Piece(*piece) for piece in record["pieces"])
        unit = Unit(record["number"], record["split"], pieces)
        try:
            write_unit(
                source,
                tokenizer,
                unit,
                Path(job["directory"]),
                job["fraction"],
                lambda consumed: answer(consumed=consumed),
            )
        except (ValueError, OSError) as error:
            answer(error=str(error), kind=type(error).__name__)
            return
        answer(done=unit.number)


if __name__ == "__main__":
    main()

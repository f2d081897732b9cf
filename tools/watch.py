"""`python -m tools.watch RUN...`: state, loss, throughput and time left of runs, again and again.

RUN is a run directory, or one whose directories are runs, such as a sweep or replicas.
"""

import sys
import time

from training import cli
from training.config import ConfigError

FLAGS = (
    ("runs", {"nargs": "+", "metavar": "RUN", "help": "run directory, or a directory of runs"}),
    ("--once", {"action": "store_true", "help": "print once and exit"}),
    ("--every", {"type": float, "default": 5.0, "metavar": "SECONDS", "help": "between updates"}),
    ("--samples", {"type": int, "default": 0, "metavar": "N", "help": "last rows of the newest predictions"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
HEADER = ("run", "state", "step", "loss", "validation", "tok/s", "eta")
STYLES = {"finished": "green", "running": "cyan", "failed": "red", "killed": "red"}


def main(argv):
    """Shows the runs until all of them have ended, or once."""
    given = cli.flags_parser(__doc__, FLAGS).parse_args(argv)
    if given.every <= 0:
        raise ConfigError(f"--every={given.every}: expected seconds above 0")
    from tools import run_records

    def look():
        return [run_records.read(run) for run in run_records.find(given.runs)]

    if given.once or not sys.stdout.isatty():
        shown = []
        while True:
            records = look()
            lines = lines_of(records, given.samples)
            print("\n".join(line for line in lines if line not in shown), flush=True)
            shown = lines
            if given.once or not is_active(records):
                return
            time.sleep(given.every)
    from rich.live import Live

    with Live(table_of(look(), given.samples), auto_refresh=False) as live:
        while is_active(records := look()):
            live.update(table_of(records, given.samples), refresh=True)
            time.sleep(given.every)
        live.update(table_of(records, given.samples), refresh=True)


def is_active(records) -> bool:
    """Whether a run has not ended."""
    return any(record.state in ("starting", "running") for record in records)


def row_of(record) -> tuple[str, ...]:
    """The cells of HEADER."""
    from training.logs import format_duration

    train, validation = record.last("train"), record.last("validation")
    loss = train.get("loss")
    scored = [f"{name} {value:.4g}" for name, value in validation.items()][:2]
    speed = record.last("throughput").get("tokens_per_second")
    total = f"/{record.total_steps:,}" if record.total_steps else ""
    eta = record.eta if record.state == "running" else 0.0
    return (
        record.name,
        record.state,
        f"{record.step:,}{total}",
        "" if loss is None else f"{loss:.4f}",
        "  ".join(scored),
        "" if speed is None else f"{speed:,.0f}",
        format_duration(eta) if eta > 0 else "",
    )


def notes_of(record, samples: int) -> list[str]:
    """Lines below the table: an error, and the last predictions."""
    notes = [record.message] if record.message else []
    return [f"{record.name}: {line}" for line in [*notes, *record.samples(samples)]]


def lines_of(records, samples: int = 0) -> list[str]:
    """The table as plain lines."""
    rows = [HEADER, *map(row_of, records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return lines + [line for record in records for line in notes_of(record, samples)]


def table_of(records, samples: int):
    """The table for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for name in HEADER:
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    for record in records:
        table.add_row(*map(Text, row_of(record)), style=STYLES.get(record.state, "yellow"))
    notes = [line for record in records for line in notes_of(record, samples)]
    return Group(table, *map(Text, notes))


if __name__ == "__main__":
    cli.main(main)

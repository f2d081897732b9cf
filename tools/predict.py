"""`python -m tools.predict --run=RUN --text='...'`: the predictions of a finetuned run for new texts.

For every task that finetune.py trains (seq2seq: a generated text), and for Hugging Face directories with
such a head. A text, TSV, CSV or JSONL file of any size is read, predicted and written in parts.
"""

import sys

from training import cli

FLAGS = (
    ("--run", {"required": True, "metavar": "DIR[@STEP]",
               "help": "a run directory of finetune.py, or a Hugging Face directory"}),
    ("--step", {"type": int, "metavar": "N", "help": "default: the step that was scored"}),
    ("texts", {"nargs": "*", "metavar": "TEXT", "help": "texts; default: lines of standard input"}),
    ("--text", {"action": "append", "default": [], "help": "a text; may be repeated"}),
    ("--text_pair", {"action": "append", "default": [], "help": "the second text of each pair"}),
    ("--file", {"action": "append", "default": [], "metavar": "PATTERN",
                "help": "lines of .txt; TSV, CSV or JSONL files with the columns of the run's task"}),
    ("--output", {"default": "", "metavar": "FILE", "help": "default: standard output"}),
    ("--format", {"choices": ("jsonl", "tsv"), "help": "default: by the name of FILE, or jsonl"}),
    ("--score", {"action": "store_true", "help": "also read the labels and print the metrics"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
EXAMPLES = """\
python -m tools.predict --run=runs/sst2 --text='a fine film' --text='a bore'
cut -f 2 texts.tsv | python -m tools.predict --run=runs/sst2 --format=tsv
python -m tools.predict --run=runs/sst2 --file=new.jsonl.gz --output=new.tsv --config.task.text_column=review
python -m tools.predict --run=runs/sst2@300 --file=test.tsv --score

--config.task.*, --config.evaluation.batch_size and --config.mesh.* change the config of the run."""


def main(argv):
    """Writes the predictions that the command line asks for."""
    parser = cli.flags_parser(__doc__, FLAGS, EXAMPLES)
    assignments, rest = cli.split_assignments(argv)
    given = parser.parse_args(rest)
    given.text = [*given.texts, *given.text]
    if given.file and (given.text or given.text_pair):
        parser.error("--file and texts exclude each other; give one of them")
    if given.text_pair and len(given.text_pair) != len(given.text):
        parser.error(
            f"{len(given.text)} texts and {len(given.text_pair)} --text_pair; give one for each text"
        )
    if given.score and not given.file:
        parser.error("--score reads labels, which only files have; add --file")
    from tools import predict

    predict.run(given, assignments)


if __name__ == "__main__":
    cli.main(main, console=sys.stderr)

import logging
import os
import time
from collections.abc import Iterator

from data import tables
from data.examples import Examples, Place, check_columns, complete_rows, examples_of
from data.file_kinds import identify
from data.files import expand
from data.tables import FORMATS, Dialect, Table
from tasks import predictions
from tasks.sums import format_metrics
from tools import output
from tools.predictor import SPLIT, Predictor
from tools.texts import has_lines, read_lines, read_stdin
from training import logs
from training.config import ConfigError

log = logging.getLogger("triptych")
BATCHES = 32  # of a part of a file; the rows of a part are sorted by length


def run(given, assignments):
    """Predicts what the parsed flags name."""
    form = given.format or (predictions.format_of(given.output) if given.output else "jsonl")
    predictor = Predictor(given.run, given.step, assignments)
    files = [path for pattern in given.file for path in expand(pattern, log.info)]
    output.check_new(given.output, files)
    log.info(predictor.describe())
    progress, writer, scores = Progress(files), output.Writer(given.output, form), {}
    num_errors = 0
    try:
        if given.score:
            rows, scores = score(predictor, files, progress)
            writer.write(rows)
        else:
            task, max_rows = predictor.config.task, BATCHES * predictor.config.evaluation.batch_size
            columns, texts = predictor.input_columns, task.text_columns()
            if files:
                read = [*columns.values(), *texts.values()]
                parts = files_in_parts(files, read, texts, task.dialect, max_rows, progress)
            elif given.text or given.text_pair:
                parts = [table_of_texts(given.text, given.text_pair, texts)]
            else:
                parts = read_stdin(only_column(texts, "standard input"), max_rows)
            for part in rows_of(predictor, parts, (columns, texts), len(files) > 1, progress):
                num_errors += sum("error" in row for row in part)
                if form == "tsv":  # an error is in JSON lines alone
                    part = [without(row, {"error"}) for row in part]
                writer.write(part)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {writer.count:,} predictions are written") from None
    finally:
        progress.close()
        writer.close()
    if num_errors:
        log.info(f"{num_errors:,} rows have no text and no prediction")
    if predictor.num_truncated:
        length = predictor.config.task.max_seq_len
        log.info(f"{predictor.num_truncated:,} examples were truncated to {length} tokens")
    if files or given.output:
        log.info(f"{writer.count:,} predictions{progress.rate()}")
    if given.score:
        line = f"{predictor.name}: {format_metrics(scores, {})}"
        print(line, file=sys.stdout if given.output else sys.stderr)


# ---- Reading -------------------------------------------------------------------------------------


def names_of(columns) -> tuple[list[str], tuple[str, ...]]:
    """(the names of columns, without repeats; those whose values may be objects)."""
    names = list(dict.fromkeys(column.name for column in columns))
    return names, tuple(column.name for column in columns if column.takes_objects)


def dialect_of(path: str, dialect: Dialect) -> Dialect:
    """How a file is written: JSON lines have no dialect, whatever the run has read."""
    return Dialect() if FORMATS.get(identify(path).format) == "" else dialect


def files_in_parts(files, columns, texts, dialect, max_rows, progress) -> Iterator[Table]:
    """The rows of files, in tables of at most `max_rows`. texts: {role: Column} of an example that is a
    text, as each line of a .txt file is."""
    dialect.check()
    names, objects = names_of(columns)
    before = 0  # bytes
    for path in files:
        if has_lines(path):
            found = read_lines(path, only_column(texts, path), max_rows)
        else:
            ours = dialect_of(path, dialect)
            found = tables.read_chunks(path, names, ours, log.info, objects, max_rows)
        for table in found:
            progress.start_part(before + table.position, len(table.numbers))
            yield table
        before += os.path.getsize(path)


def table_of_texts(texts, pairs, columns) -> Table:
    """The table of the texts of the command line, or of pairs."""
    names, given = required(columns), [texts, *[pairs] * bool(pairs)]
    if len(names) != len(given):
        raise ConfigError(
            f"this run reads {' and '.join(names)}, but {len(given)} of them "
            f"{'is' if len(given) == 1 else 'are'} given; give {'--text and --text_pair' * (len(names) == 2)}"
            f"{'--text' * (len(names) == 1)}{'a file with these columns (--file)' * (len(names) > 2)}"
        )
    table = Table("the command line", names, {name: [] for name in names}, unit="text")
    for number, values in enumerate(zip(*given, strict=True), 1):
        table.add(number, dict(zip(names, values, strict=True)))
    return table


def required(columns) -> list[str]:
    """The names of the columns that every example has."""
    return [column.name for column in columns.values() if not column.is_optional]


def only_column(columns, place: str) -> str:
    """The name of the one column that an example needs. Raises ConfigError for several."""
    names = required(columns)
    if len(names) != 1:
        raise ConfigError(
            f"this run reads {' and '.join(names)}, and a line of {place} is one text; give "
            "--text and --text_pair, or a table with these columns (--file)"
        )
    return names[0]


# ---- Predictions ---------------------------------------------------------------------------------


def score(predictor, files, progress):
    """(the rows of labeled files, {metric: value})."""
    columns, task = predictor.columns, predictor.config.task
    task.dialect.check()
    names, objects = names_of(columns.values())
    found = [
        tables.read(path, names, dialect_of(path, task.dialect), log.info, objects)
        for path in files
    ]
    examples = examples_of(SPLIT, found, columns, task.missing, log.info)
    progress.start_part(progress.total, len(examples))
    loaded, outputs, scores = predictor.predict(examples, progress, as_in_run=True)
    return loaded.full_rows(SPLIT, outputs, len(files) > 1), scores


def rows_of(predictor, parts, choices, with_file, progress) -> Iterator[list[dict]]:
    """The rows of each table, in order, numbered from 0 over all of them. It has one of the `choices` of
    columns, {role: Column} each.

    A row without a text has the keys of the others without values, and an 'error'."""
    labels = {"label", *(role for role, each in predictor.columns.items() if each.is_label)}
    ours = {"row", "file", *(role for columns in choices for role in columns)} - {"id"}
    keys, waiting, first = {}, [], 0
    for table in parts:
        columns = columns_of(table, choices)
        check_columns(table, columns)
        values, complete, absent = complete_rows(table, columns)
        rows = {}
        if complete:
            examples = Examples(values, [Place(table, row) for row in complete])
            task, outputs, _ = predictor.predict(examples, progress)
            ids = values.get("id", [None] * len(complete))
            found = zip(task.full_rows(SPLIT, outputs, with_file), ids, strict=True)
            found = (without(row, labels) | {"id": name} for row, name in found)
            rows = dict(zip(complete, found, strict=True))
            some = rows[complete[0]]
            keys = keys or {key: empty(value) for key, value in some.items() if key not in ours}
        for row, name in absent.items():
            read = {
                role: table.columns.get(c.name, {row: None})[row] for role, c in columns.items()
            }
            place = Place(table, row).describe(with_file)
            rows[row] = {**place, **read, "error": f"column {name!r} has no value"}
        waiting += [rows[row] for row in range(len(table.numbers))]
        if keys:
            yield numbered(waiting, keys, first)
            first, waiting = first + len(waiting), []
    if waiting:
        yield numbered(waiting, {"id": None, "prediction": None}, first)


def columns_of(table, choices):
    """The first of the choices whose columns a table has, by default the first one."""
    there = (c for c in choices if {*required(c)} <= table.columns.keys())
    return next(there, choices[0])


def numbered(rows, keys, first):
    """The rows with an id, by default numbers from `first` on, and with the keys of a prediction if they
    have none."""
    rows = [keys | row if "error" in row else row for row in rows]
    return [
        row | {"id": number} if row["id"] is None else row for number, row in enumerate(rows, first)
    ]


def without(row, keys):
    """A row without some keys."""
    return {key: value for key, value in row.items() if key not in keys}


def empty(value):
    """None for each value."""
    return dict.fromkeys(value) if isinstance(value, dict) else None


class Progress:
    """Rows per second and the time left, on standard error: in a terminal as one line that changes.

    Attributes:
      total: bytes of all files on disk; 0: unknown.
    """

    def __init__(self, files):
        self.total, self.count = sum(map(os.path.getsize, files)), 0
        self._begin, self._end, self._rows, self._in_part = 0, 0, 1, 0
        self._first = self._shown = None
        self._is_terminal = sys.stderr.isatty() and not sys.stdout.isatty()

    def start_part(self, end: int, rows: int) -> None:
        """The next rows are those of the files up to byte `end`."""
        self._begin, self._end, self._rows, self._in_part = self._end, end, max(1, rows), 0

    def __call__(self, rows: int) -> None:
        """Counts rows that are done, and reports every few seconds."""
        self.count += rows
        self._in_part += rows
        now, share = time.monotonic(), min(1.0, self._in_part / self._rows)
        at = self._begin + share * (self._end - self._begin)
        if self._first is None:  # with compilation
            self._first, self._shown = (now, self.count, at), now
        if now - self._shown < (0.5 if self._is_terminal else 10):
            return
        self._shown, text = now, f"{self.count:,} rows{self.rate()}"
        if self.total and at > self._first[2]:
            seconds = (now - self._first[0]) * (self.total - at) / (at - self._first[2])
            text += f"  eta {logs.format_duration(seconds)}"
        if self._is_terminal:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)
        else:
            log.info(text)

    def rate(self) -> str:
        """', 1,234 rows/s' since the first batch; '' before a second one."""
        if self._first is None or self.count == self._first[1]:
            return ""
        seconds = max(1e-6, time.monotonic() - self._first[0])
        return f", {(self.count - self._first[1]) / seconds:,.0f} rows/s"

    def close(self):
        """Clears the line of a terminal."""
        if self._is_terminal and self._shown is not None:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

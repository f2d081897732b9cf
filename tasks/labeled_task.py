"""The options of every task on labeled examples: where they are from and what their columns mean.

Read through data/labeled.py.
"""

from dataclasses import dataclass

from data import labeled
from models.config import option
from tasks.base import Task


@dataclass(frozen=True)
class LabeledTask(Task):
    """A task on a labeled set."""

    source: str = option("python_docs", "python_docs, tfds:NAME or files:/path/{train,test}.tsv")
    text_column: str = option("text", "column of the text")
    text_pair_column: str = option("", "column of the second text of a pair; '': single texts")
    label_column: str = option("label", "column of the label")
    splits: tuple = option(
        (),
        "splits of a TFDS data set by their own names: ('validation=validation_mismatched',); those "
        "left out are found by their names",
    )
    columns: tuple = option((), "names of the columns of TSV and CSV files without a header")
    delimiter: str = option("", "between the fields, such as ';'; '': tab for TSV, comma for CSV")
    quoting: str = option(
        "auto",
        "minimal: double quotes enclose fields; none: they are text; auto: none if tabs are between "
        "fields (GLUE), otherwise minimal",
        choices=("auto", "none", "minimal"),
    )
    missing: str = option(
        "error", "rows without a text or a label: an error, or dropped", choices=("error", "drop")
    )
    validation_fraction: float = option(
        0.1,
        "share of the train rows of each label used for validation if there is no such split",
        min=0.001,
        max=0.9,
    )

    def read(self, log=lambda line: None) -> labeled.LabeledSplits:
        """The labeled set, as text. Raises FileNotFoundError or ValueError of one line."""
        if not (self.text_column and self.label_column):
            raise ValueError("task.text_column and task.label_column must name columns, not ''")
        return labeled.load(
            self.source, self.text_column, self.text_pair_column, self.label_column,
            dialect=labeled.Dialect(self.columns, self.delimiter, self.quoting),
            splits=self.splits, missing=self.missing, validation_fraction=self.validation_fraction, log=log,
        )  # fmt: skip

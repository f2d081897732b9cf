"""A row of a Batch as text with marks: who is predicted where, what was hidden, which document.

Drawn for `tools.inspect` from the fields of Batch and Sequence alone: it knows no objective.
"""

import dataclasses

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

from models.sequence import Sequence

LEGEND = (
    "a·b one word   ‹a› predicted from what stands before   a→b here b is predicted   "
    "a→= here a itself is   ‖ end of the prefix"
)
STYLES = {
    "special": "magenta",
    "masked": "bold yellow",
    "replaced": "bold red",
    "kept": "bold green",
    "foreseen": "cyan",
    "prefix": "underline",
    "mark": "dim",
    "plain": "",
}
CONTROLS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


class Pieces:
    """Ids as (text, joined): joined pieces go on with the word before them."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._special = set(_numbers(tokenizer.special_ids()))
        self._anchor = [int(tokenizer.encode("a")[-1])]
        self._before = len(tokenizer.decode(self._anchor))
        self._known = {}

    def special(self, token):
        """Whether a token has a role of its own: [MASK], a sentinel, ..."""
        return int(token) in self._special

    def __call__(self, token):
        token = int(token)
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token):
        written = self._tokenizer.piece(token)
        if not written:
            return f"⟨{token}⟩", False  # beyond the vocabulary
        if token in self._special:
            return written, False
        if written.startswith("##") and len(written) > 2:  # WordPiece
            return _visible(written[2:]), True
        text = self._tokenizer.decode([*self._anchor, token])[self._before :]
        if not text or "\N{REPLACEMENT CHARACTER}" in text:  # part of a character
            return written, True
        joined = not text.startswith(" ")
        return _visible(text if joined else text[1:] or "␣"), joined


def on_host(batch):
    """A Batch with NumPy leaves; random keys as their words."""

    def array(x):
        typed = hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if typed else x)

    return jax.tree.map(array, batch)


def row_of(batch, row):
    """One row of a batch with NumPy leaves."""
    return jax.tree.map(lambda x: x[row], batch)


def sequences(batch):
    """[(name, Sequence)] of the fields of a Batch that are sequences."""
    return [(name, value) for name, value in _fields(batch) if isinstance(value, Sequence)]


def plain(value):
    """Dataclasses as dicts, arrays as lists: what json.dumps takes. Absent fields are left out."""
    if dataclasses.is_dataclass(value):
        return {name: plain(each) for name, each in _fields(value, static=True)}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def lines(batch, pieces, labels=()):
    """The row as [(name, document or '', rich Text)]: each sequence, then what else the Batch has.

    Predictions are read from the last sequence that the model reads: the decoder's, or the inputs.

    Args:
      batch: one row, NumPy leaves.
      pieces: Pieces.
      labels: names of the classes, where targets are classes and not pieces.
    """
    reads = "inputs" if batch.decoder is None else "decoder"
    side = getattr(batch, reads)
    predicted, elsewhere = _predictions(batch, len(side.tokens))
    found = []
    for name, sequence in sequences(batch):
        found += _sequence(name, sequence, predicted if name == reads else {}, pieces, labels)
    if elsewhere:
        found += [(name, "", _runs(getattr(batch, name))) for name in ("targets", "weights")]
    if batch.noise is not None:
        found.append(("noise", "", Text(" ".join(pieces(token)[0] for token in batch.noise))))
    known = ("targets", "weights", "indices", "noise")
    for name, value in _fields(batch):
        if name not in known and not isinstance(value, Sequence):
            found += [(f"{name}{path}", "", _runs(leaf)) for path, leaf in _leaves(value)]
    return found


def raw_lines(tokens, segments, pieces):
    """The same of a raw row, int32[L] with the document of each token."""
    return _sequence("raw", Sequence(tokens, segments, None), {}, pieces, ())


def table(rows):
    """What `lines` gives, as columns: name, document, text wrapped beside them."""
    grid = Table.grid(padding=(0, 1))
    for _ in range(2):
        grid.add_column(style="dim", justify="right")
    grid.add_column(overflow="fold")
    before = None
    for name, document, text in rows:
        grid.add_row("" if name == before else name, f"{document}│", text)
        before = name
    return grid


def _predictions(batch, length):
    """{position: [(target, weight)]} of one row, and whether targets have no position to stand at."""
    targets, weights = batch.targets, batch.weights
    indices = np.arange(len(targets)) if batch.indices is None else batch.indices
    if targets.ndim != 1 or weights.shape != targets.shape or indices.shape != targets.shape:
        return {}, True
    told = np.flatnonzero(weights)
    if len(told) and indices[told].max() >= length:
        return {}, True
    found = {}
    for n in told:
        found.setdefault(int(indices[n]), []).append((int(targets[n]), float(weights[n])))
    return found, False


def _sequence(name, sequence, predicted, pieces, labels):
    """The documents of one sequence, one entry each, its padding, and its other fields."""
    found = []
    segments = sequence.segments
    edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
    for start, stop in zip(edges, edges[1:], strict=False):
        if segments[start] == 0:
            found.append((name, "", Text(f"{stop - start} of padding", STYLES["mark"])))
        else:
            text = _document(sequence, start, stop, predicted, pieces, labels)
            found.append((name, str(segments[start]), text))
    if sequence.types is not None:
        found.append((f"{name}.types", "", _runs(sequence.types)))
    return found


def _document(sequence, start, stop, predicted, pieces, labels):
    tokens, prefix = sequence.tokens, sequence.prefix
    # Where the model types, the usual target is the piece that stands next: a bracket around what
    # is predicted says it better than an arrow behind every piece.
    typed = sequence.visibility != "all" and not labels
    foreseen = {
        place + 1
        for place in range(start, stop - 1)
        if typed and predicted.get(place) == [(int(tokens[place + 1]), 1.0)]
    }
    text = Text()
    for place in range(start, stop):
        piece, joined = pieces(tokens[place])
        inside = place in foreseen
        if place > start:
            if prefix is not None and prefix[place - 1] and not prefix[place]:
                text.append(" ‖", STYLES["mark"])
            opened = place == start + 1 and pieces.special(tokens[start])
            text.append("·" if joined and not opened else " ", STYLES["mark"])
        if inside and place - 1 not in foreseen:
            text.append("‹", STYLES["mark"])
        here = [] if place + 1 in foreseen else predicted.get(place, [])
        text.append(piece, _style(sequence, place, here, inside, pieces, labels))
        if inside and place + 1 not in foreseen:
            text.append("›", STYLES["mark"])
        for target, weight in here:
            own = not typed and not labels and target == int(tokens[place])
            word, goes_on = (labels[target], False) if labels else pieces(target)
            word = "=" if own else f"{'·' if goes_on else ''}{word}"
            text.append(f"→{word}" + ("" if weight == 1 else f"×{weight:.4g}"), STYLES["masked"])
    if prefix is not None and prefix[stop - 1]:
        text.append(" ‖", STYLES["mark"])
    return text


def _style(sequence, place, here, foreseen, pieces, labels):
    token = int(sequence.tokens[place])
    if here and sequence.visibility == "all" and not labels:
        if pieces.special(token):
            return STYLES["masked"]
        return STYLES["kept" if here[0][0] == token else "replaced"]
    if pieces.special(token):
        return STYLES["special"]
    if foreseen:
        return STYLES["foreseen"]
    return STYLES["prefix" if sequence.prefix is not None and sequence.prefix[place] else "plain"]


def _fields(value, static=False):
    """[(name, value)] of a dataclass's fields that are there; `static`: those that hold no array too."""
    fields = [f for f in dataclasses.fields(value) if static or f.metadata.get("pytree_node", True)]
    pairs = ((field.name, getattr(value, field.name)) for field in fields)
    return [(name, each) for name, each in pairs if each is not None]


def _leaves(value):
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _runs(array):
    """Numbers with their repetitions: '0×12 1×4'; a scalar is itself."""
    array = np.asarray(array)
    words = [f"{x:.6g}" if isinstance(x, float) else str(x) for x in array.reshape(-1).tolist()]
    found = []
    for word in words:
        if found and found[-1][0] == word:
            found[-1][1] += 1
        else:
            found.append([word, 1])
    return Text(" ".join(word if count == 1 else f"{word}×{count}" for word, count in found))


def _numbers(tree):
    """The special ids in what `Tokenizer.special_ids` gives."""
    for name, value in tree.items():
        if name not in ("size", "ordinary"):
            yield from (value if isinstance(value, tuple) else (value,))


def _visible(text):
    return "".join(CONTROLS.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)

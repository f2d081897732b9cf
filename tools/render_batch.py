"""Rows of a Batch as text: targets, corrupted tokens and documents marked. Used by tools/inspect.py.

Reads the fields of Batch and ModelInputs alone: it knows no objective.
"""

import dataclasses
import itertools

import jax
import numpy as np
from rich.table import Column, Table
from rich.text import Text

from models.inputs import ModelInputs

LEGEND = (
    "a·b one word   ‹a› predicted from the token before it   a→b the target here is b   "
    "a→= the target here is a itself   ‖ end of the prefix"
)
COLORS = {r"→\S+": "bold yellow", r"‹[^›]+›": "cyan", r"\[[A-Z]+\]|<extra_id_\d+>": "magenta"}
CONTROLS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


class TokenText:
    """Token ids as (text, whether the token continues the word before it)."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._regular = tokenizer.special_ids()["regular_token_ranges"]
        self._anchor = [int(tokenizer.encode("a")[-1])]
        self._before = len(tokenizer.decode(self._anchor))

    def is_special(self, token) -> bool:
        return not any(low <= token < high for low, high in self._regular)

    def __call__(self, token) -> tuple[str, bool]:
        spelling = self._tokenizer.token(token)
        if self.is_special(token):
            return spelling or f"⟨{token}⟩", False  # without a spelling: beyond the vocabulary
        text = self._tokenizer.decode([*self._anchor, token])[self._before :]
        if not text or "\N{REPLACEMENT CHARACTER}" in text:  # part of a character
            return spelling, True
        continues = not text.startswith(" ")
        text = text if continues else text[1:] or "␣"
        visible = (CONTROLS.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)
        return "".join(visible), continues


def render_row(batch, token_text, name_of=None) -> list[tuple[str, str, str]]:
    """One row of a Batch (NumPy arrays) as (name, document or '', text): the model inputs document by
    document, then the other fields. Predictions are shown in the sequence that makes them. name_of: the
    text of a target, None if targets are tokens."""
    predicts = "inputs" if batch.decoder_inputs is None else "decoder_inputs"
    targets = _targets_by_position(batch, getattr(batch, predicts).tokens.shape[-1])
    shown = () if targets is None else ("targets", "loss_weights", "target_positions")
    lines = []
    for field in dataclasses.fields(batch):
        name, value = field.name, getattr(batch, field.name)
        if value is None or name in shown or not field.metadata.get("pytree_node", True):
            continue
        if isinstance(value, ModelInputs):
            here = targets if targets and name == predicts else {}
            if value.tokens.ndim == 1:
                lines += render_inputs(name, value, here, token_text, name_of)
            else:  # several sequences, such as the choices of a question
                for place in range(len(value.tokens)):
                    one = jax.tree.map(lambda x, place=place: x[place], value)
                    lines += render_inputs(f"{name}[{place}]", one, {}, token_text)
        elif name == "negatives":
            lines.append((name, "", " ".join(token_text(token)[0] for token in value)))
        else:
            lines.append((name, "", _numbers(value)))
    return lines


def render_inputs(name, inputs, targets, token_text, name_of=None):
    """The documents of one sequence, its padding, and its token type ids."""
    segment_ids, lines = inputs.segment_ids, []
    edges = [0, *(np.flatnonzero(np.diff(segment_ids)) + 1).tolist(), len(segment_ids)]
    for start, stop in itertools.pairwise(edges):
        if segment_ids[start] == 0:
            lines.append((name, "", f"{stop - start} padding"))
        else:
            text = _document(inputs, range(start, stop), targets, token_text, name_of)
            lines.append((name, str(segment_ids[start]), text))
    if inputs.token_type_ids is not None:
        lines.append((f"{name}.token_type_ids", "", _numbers(inputs.token_type_ids)))
    return lines


def table(lines) -> Table:
    """The lines of `render_row` in columns, wrapped, with colors for a terminal."""
    dim = [Column(justify="right", style="dim") for _ in range(2)]
    grid = Table.grid(*dim, Column(overflow="fold"), padding=(0, 1))
    for name, document, text in lines:
        colored = Text(text)
        for pattern, color in COLORS.items():
            colored.highlight_regex(pattern, color)
        grid.add_row(name, f"{document}│", colored)
    return grid


def _targets_by_position(batch, length):
    """{position: [(target, loss weight)]}, or None if targets have no positions in the sequence."""
    positions = batch.target_positions
    positions = np.arange(len(batch.targets)) if positions is None else positions
    used, found = np.flatnonzero(batch.loss_weights), {}
    if positions.shape != batch.targets.shape or (positions[used] >= length).any():
        return None
    for n in used:
        target = batch.targets[n].item(), float(batch.loss_weights[n])
        found.setdefault(int(positions[n]), []).append(target)
    return found


def _document(inputs, places, targets, token_text, name_of):
    """The tokens at `places` as one text."""
    tokens, prefix, text = inputs.tokens.tolist(), inputs.prefix, []
    generates = inputs.attention != "bidirectional" and name_of is None
    # If the model generates, most targets are the next token: brackets say it shorter than arrows.
    predicted = {
        place + 1
        for place in places[:-1]
        if generates and targets.get(place) == [(tokens[place + 1], 1.0)]
    }
    for place in places:
        word, continues = token_text(tokens[place])
        if place > places[0]:
            ends_prefix = prefix is not None and prefix[place - 1] and not prefix[place]
            opens = place == places[1] and token_text.is_special(tokens[place - 1])
            text.append(" ‖" * bool(ends_prefix) + ("·" if continues and not opens else " "))
        opening = "‹" if place in predicted and place - 1 not in predicted else ""
        closing = "›" if place in predicted and place + 1 not in predicted else ""
        text.append(f"{opening}{word}{closing}")
        for target, weight in [] if place + 1 in predicted else targets.get(place, []):
            word, continues = (name_of(target), False) if name_of else token_text(target)
            is_kept = target == tokens[place] and not generates and name_of is None
            word = "=" if is_kept else "·" * continues + word
            text.append(f"→{word}" + ("" if weight == 1 else f"×{weight:.4g}"))
    if prefix is not None and prefix[places[-1]]:
        text.append(" ‖")
    return "".join(text)


def _numbers(array):
    """Numbers with their repetitions: '0×12 1×4'."""
    words = (f"{x:.6g}" if isinstance(x, float) else str(x) for x in np.ravel(array).tolist())
    counted = ((word, len(list(group))) for word, group in itertools.groupby(words))
    return " ".join(word if count == 1 else f"{word}×{count}" for word, count in counted)

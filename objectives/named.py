"""The denoisers that have a name, with the values of their papers: one table, and a class for each.
The registry takes them from here. A new one is a line; a new word is one of grammar.py.
"""

import dataclasses

from models.config import knob
from objectives.denoising import Denoising
from objectives.grammar import parse

# name: (its spelling, what else differs from Denoising's defaults, paper and section)
TABLE = {
    "masked_lm": (
        "iid_0.15_bert_masked", {},
        "BERT: Devlin et al. 2019, section 3.1, task 1",
    ),
    "whole_word_masked_lm": (
        "iid_0.15_bert_masked", {"unit": "word"},
        "BERT's whole word masking: Cui et al. 2021, section 3",
    ),
    "span_masked_lm": (
        "geometric_0.15_bert_masked",
        {"unit": "word", "mean_span_length": 5.0, "max_span_length": 10},
        "SpanBERT: Joshi et al. 2020, section 3.1: p = 0.2, at most 10 words, 3.8 on average",
    ),
    "span_corruption": (
        "span_0.15_sentinel_spans", {"mean_span_length": 3.0},
        "T5: Raffel et al. 2020, section 3.3.4",
    ),
    "replace_spans": (
        "iid_0.15_sentinel_spans", {},
        "T5's baseline: Raffel et al. 2020, section 3.1.4 and table 5",
    ),
    "drop_spans": (
        "iid_0.15_drop_spans", {},
        "Raffel et al. 2020, section 3.3.2, table 5: drop corrupted tokens",
    ),
    "bert_style": (
        "iid_0.15_bert_full", {"random": 0.1, "keep": 0.0},
        "Raffel et al. 2020, section 3.3.1, table 4: 90 % masks, 10 % random",
    ),
    "mass_style": (
        "iid_0.15_mask_full", {},
        "Raffel et al. 2020, section 3.3.2, table 5, after Song et al. 2019 (MASS)",
    ),
    "deshuffling": (
        "iid_1_shuffle_full", {},
        "Raffel et al. 2020, section 3.3.1, table 4, after Liu et al. 2019",
    ),
    "text_infilling": (
        "poisson_0.3_mask_span_full", {"mean_span_length": 3.0},
        "BART: Lewis et al. 2020, sections 2.2 (lambda = 3) and 5.1 (30 %)",
    ),
}  # fmt: skip


def _class(name, spelling, more, paper):
    """A Denoising whose defaults are those of a line of the table; each can still be changed."""
    values = {**parse(spelling), **more}
    fields = [
        (f.name, f.type, knob(values[f.name], **f.metadata))
        for f in dataclasses.fields(Denoising)
        if f.name in values
    ]
    title = "".join(word.capitalize() for word in name.split("_"))
    namespace = {"name": name, "__doc__": f"{spelling}. {paper}.", "__module__": __name__}
    return dataclasses.make_dataclass(
        title, fields, bases=(Denoising,), frozen=True, namespace=namespace
    )


NAMED = {name: _class(name, *line) for name, line in TABLE.items()}

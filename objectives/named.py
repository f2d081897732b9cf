"""The named denoisers, with the values of their papers: one table, and a class for each row.
A new one is a row of the table, which the registry then lists. New words for patterns, inputs or
targets go into grammar.py.
"""

import dataclasses

from models.config import option
from objectives.denoising import Denoising
from objectives.grammar import parse_denoiser

# name: (four words, values of other fields, paper and section)
TABLE = {
    "masked_lm": (
        "iid_0.15_bert_masked", {}, "BERT: Devlin et al. 2019, section 3.1, task 1"),
    "whole_word_masked_lm": (
        "iid_0.15_bert_masked", {"whole_word": True},
        "BERT's whole word masking: Cui et al. 2021, section 3"),
    "span_masked_lm": (
        "geometric_0.15_bert_masked",
        {"whole_word": True, "mean_noise_span_length": 5.0, "max_span_length": 10},
        "SpanBERT: Joshi et al. 2020, section 3.1: p = 0.2, at most 10 words, 3.8 on average"),
    "mntp": (
        "iid_0.15_bert_next", {},
        "masked next-token prediction, LLM2Vec: BehnamGhader et al. 2024, section 2.1; GPT-BERT: "
        "Charpentier and Samuel 2024, section 2"),
    "span_corruption": (
        "span_0.15_sentinel_spans", {"mean_noise_span_length": 3.0},
        "T5: Raffel et al. 2020, section 3.3.4"),
    "replace_spans": (
        "iid_0.15_sentinel_spans", {},
        "T5's baseline: Raffel et al. 2020, section 3.1.4 and table 5"),
    "drop_spans": (
        "iid_0.15_drop_spans", {},
        "Raffel et al. 2020, section 3.3.2, table 5: drop corrupted tokens"),
    "bert_style": (
        "iid_0.15_bert_full", {"random_token_prob": 0.1, "keep_token_prob": 0.0},
        "Raffel et al. 2020, section 3.3.1, table 4: 90 % [MASK], 10 % random tokens"),
    "mass_style": (
        "iid_0.15_mask_full", {},
        "Raffel et al. 2020, section 3.3.2, table 5, after Song et al. 2019 (MASS)"),
    "deshuffling": (
        "iid_1_shuffle_full", {},
        "Raffel et al. 2020, section 3.3.1, table 4, after Liu et al. 2019"),
    "text_infilling": (
        "poisson_0.3_mask_span_full", {"mean_noise_span_length": 3.0},
        "BART: Lewis et al. 2020, sections 2.2 (lambda = 3) and 5.1 (30 %)"),
}  # fmt: skip


def _make_class(name, words, values, paper):
    """A subclass of Denoising with the defaults of one row of the table."""
    defaults = {**parse_denoiser(words), **values}
    fields = [
        (f.name, f.type, option(defaults[f.name], **f.metadata))
        for f in dataclasses.fields(Denoising)
        if f.name in defaults
    ]
    title = "".join(word.capitalize() for word in name.split("_"))
    namespace = {"name": name, "__doc__": f"{words}. {paper}.", "__module__": __name__}
    return dataclasses.make_dataclass(
        title, fields, bases=(Denoising,), frozen=True, namespace=namespace
    )


NAMED = {name: _make_class(name, *row) for name, row in TABLE.items()}

"""The way in which a model is asked for log-probabilities, by default the form of its pretraining."""

import dataclasses

from data.special_tokens import template_for
from evaluation.ways import Causal, Generating, Infilling, Masking, Way
from objectives import Objective
from objectives.causal_lm import CausalLM
from objectives.denoising import Denoising
from objectives.mixture import mode_tokens
from objectives.prefix_lm import PrefixLM
from objectives.vocabulary import Vocabulary

SCORINGS = ("auto", "causal", "prefix", "infill", "pll", "pll_within_word_l2r")


def choose_way(
    scoring: str,
    architecture: str,
    tokenizer,
    objective: Objective | None = None,
    start_token: str = "",
) -> Way:
    """The way that `scoring`, one of SCORINGS, names; 'auto' is the form of the objective.

    Args:
      objective: what the model was pretrained with; None for an imported or finetuned one.
      start_token: a special token that a decoder reads before each text ('': what its tokenizer adds).

    Raises ValueError, in one line, for a model or a tokenizer that cannot be scored so.
    """
    if architecture not in ("encoder", "decoder", "encoder_decoder"):
        raise ValueError(
            f"an {architecture} model has no log-probabilities: use --suite=similarity, analogy or coverage"
        )
    vocabulary = Vocabulary(**tokenizer.special_ids())
    objective, lead = _component(objective, vocabulary)
    template = template_for(
        architecture, tokenizer.special_ids(), tokenizer.template, documents=objective is not None
    )
    template = dataclasses.replace(template, prefix=(*template.prefix, *lead))
    if start_token:
        template = _with_start(template, start_token, architecture, tokenizer)
    if scoring == "auto":
        scoring = _form_of(objective, architecture, vocabulary)
    is_pll = scoring.startswith("pll")
    within_word = scoring == "pll_within_word_l2r"
    if within_word and not vocabulary.word_continuation:
        raise ValueError(
            "--scoring=pll_within_word_l2r: the tokenizer does not define word boundaries; use --scoring=pll"
        )
    if architecture == "encoder" and not is_pll:
        raise ValueError(
            f"--scoring={scoring} generates from left to right, which an encoder cannot: use --scoring=pll"
        )
    generates = architecture == "encoder_decoder" or (
        architecture == "decoder" and _infills(objective)
    )
    if is_pll and not generates:
        if vocabulary.mask < 0:
            raise ValueError(
                f"--scoring={scoring} needs a mask token, which the tokenizer does not have: use "
                "--scoring=causal"
            )
        return Masking(vocabulary, template, within_word, -int(architecture == "decoder"))
    if scoring == "causal":
        if architecture != "decoder":
            raise ValueError(
                "--scoring=causal: the encoder of an encoder_decoder reads the context; use "
                "--scoring=prefix or infill"
            )
        return Causal(vocabulary, template)
    if scoring == "prefix":
        if architecture == "decoder":  # it reads the text after the prefix, without an end
            template = dataclasses.replace(template, suffix=())
        return Generating(vocabulary, template, architecture)
    mark, full = _mark_of(objective, vocabulary, scoring)
    if is_pll:
        return Infilling(vocabulary, template, architecture, mark, full, within_word)
    return Generating(vocabulary, template, architecture, mark, full)


def _component(objective, vocabulary):
    """(the objective of a mixture that scores text best; the mode token before its documents)."""
    components = getattr(objective, "parsed", ())  # of a mixture, and of objectives like it
    if not components:
        return objective, ()

    def order(component):
        inner = component.objective
        return isinstance(inner, Denoising) + (not isinstance(inner, CausalLM))

    chosen = min(components, key=order)
    return _component(chosen.objective, vocabulary)[0], mode_tokens(vocabulary, chosen.mode)


def _form_of(objective, architecture, vocabulary):
    """The scoring in the form of the pretraining objective."""
    if architecture == "encoder":
        return "pll"
    if isinstance(objective, PrefixLM):
        return "prefix"
    if isinstance(objective, Denoising):
        if objective.targets not in _GENERATED:
            return "pll"  # it predicts tokens in place
        return "infill" if _infills(objective) else "prefix"
    if architecture == "decoder":
        return "causal"
    return "infill" if vocabulary.sentinels or vocabulary.mask >= 0 else "prefix"


# What stands in the inputs of a denoiser in place of noise, as a mark of Generating.
_MARKS = {"sentinel": "sentinel", "mask_span": "mask", "mask": "masks", "bert": "masks"}
_GENERATED = ("full", "spans")  # targets of a denoiser that generates text


def _infills(objective):
    """Whether an objective generates the text whose place a mark in its inputs takes."""
    return (
        isinstance(objective, Denoising)
        and objective.inputs in _MARKS
        and objective.targets in _GENERATED
    )


def _mark_of(objective, vocabulary, scoring):
    """(mark, full) of Generating for --scoring=infill."""
    if _infills(objective):
        return _MARKS[objective.inputs], objective.targets == "full"
    if vocabulary.sentinels:
        return "sentinel", False
    if vocabulary.mask >= 0:
        return "mask", True
    raise ValueError(
        f"--scoring={scoring} needs sentinels or a mask token, which the tokenizer does not have: use "
        "--scoring=prefix or causal"
    )


def _with_start(template, start_token, architecture, tokenizer):
    if architecture != "decoder":
        raise ValueError(
            f"--start_token={start_token!r} is for decoders; an {architecture} has its own: leave it out"
        )
    found = tokenizer.encode(start_token, specials=True)
    if len(found) != 1:
        raise ValueError(
            f"--start_token={start_token!r} is {len(found)} tokens of this tokenizer: name one token, such "
            "as its end of text"
        )
    return dataclasses.replace(template, prefix=(int(found[0]),))

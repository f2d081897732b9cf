"""The grammar of denoisers, <pattern>_<density>_<inputs>_<targets>: words and valid combinations.
Modeled on T5's names for its objectives (Raffel et al. 2020, section 3.3); denoising.py implements it.
Invalid combinations are errors that give the reason and an alternative.
"""

import dataclasses
import math

from objectives.noise import check_token_probs

# pattern -> default of mean_noise_span_length; 0: single tokens or words, no spans.
PATTERNS = {"iid": 0.0, "span": 3.0, "geometric": 5.0, "poisson": 3.0}
DRAWN_LENGTHS = (
    "geometric",
    "poisson",
)  # patterns that draw each span's length from a distribution
# The inputs have one token for each noise token (IN_PLACE), or fewer (SHORTER).
IN_PLACE = ("mask", "random", "bert", "shuffle")
SHORTER = ("mask_span", "sentinel", "drop")
TARGETS = ("masked", "next", "full", "spans")
NOISE_IN_PLACE = ("masked", "next")  # targets: only the noise, and the inputs keep all positions
WORDS = {"pattern": tuple(PATTERNS), "inputs": IN_PLACE + SHORTER, "targets": TARGETS}


def parse_denoiser(text: str) -> dict:
    """'span_0.15_sentinel_spans' -> {'pattern': 'span', 'noise_density': 0.15, ...}.

    Raises ValueError, which lists the valid words, for any other text.
    """
    pattern, _, rest = text.partition("_")
    density, _, rest = rest.partition("_")
    inputs, _, targets = rest.rpartition("_")
    words = {"pattern": pattern, "inputs": inputs, "targets": targets}
    try:
        share = float(density)
    except ValueError:
        share = math.nan
    if math.isnan(share) or any(word not in WORDS[kind] for kind, word in words.items()):
        raise ValueError(
            f"denoiser {text!r}: expected <pattern>_<density>_<inputs>_<targets> out of "
            f"{'|'.join(PATTERNS)}, a share such as 0.15, {'|'.join(IN_PLACE + SHORTER)}, "
            f"{'|'.join(TARGETS)}"
        )
    return {**words, "noise_density": share}


def format_denoiser(denoiser, cls) -> str:
    """The text of a denoiser, which `registry.parse` reads: the four words, then each field that applies
    and differs from its default in the dataclass `cls`, as 'iid_0.15_bert_masked:whole_word=True'.
    """
    words = (denoiser.pattern, f"{denoiser.noise_density:g}", denoiser.inputs, denoiser.targets)
    omitted = ("pattern", "noise_density", "inputs", "targets", *_without_effect(denoiser))
    rest = [
        f"{field.name}={getattr(denoiser, field.name)}"
        for field in dataclasses.fields(cls)
        if field.name not in omitted and getattr(denoiser, field.name) != field.default
    ]
    return "_".join(words) + (":" + ",".join(rest) if rest else "")


def check(denoiser) -> None:
    """Raises ValueError, in one line, for an invalid word or number, or an invalid combination."""
    d = denoiser
    for kind, words in WORDS.items():
        if getattr(d, kind) not in words:
            raise ValueError(f"{kind}={getattr(d, kind)!r}: expected one of {', '.join(words)}")
    default = {field.name: field.default for field in dataclasses.fields(d)}
    for name, why in _without_effect(d).items():
        if getattr(d, name) != default[name]:
            raise ValueError(f"{name}={getattr(d, name)} has no effect: {why}; leave it out")
    check_token_probs(d.random_token_prob, d.keep_token_prob)
    if d.inputs in SHORTER and d.targets in NOISE_IN_PLACE:
        raise ValueError(
            f"inputs={d.inputs} with targets={d.targets}: a token that is predicted in place needs a "
            f"position in the inputs; expected inputs {' or '.join(IN_PLACE)}, or targets=spans"
        )
    if d.whole_word and d.pattern == "span":
        raise ValueError(
            "whole_word=True with pattern=span: T5's spans have a fixed total number of tokens, "
            "which whole words would not meet; expected pattern iid, geometric or poisson"
        )
    if d.pattern == "iid":
        return
    if d.mean_length < 1:
        raise ValueError(
            f"mean_noise_span_length={d.mean_length:g}: expected at least 1, or 0 for the default"
        )
    if d.noise_density * (1 + 1 / d.mean_length) > 1:
        raise ValueError(
            f"noise_density={d.noise_density:g} with spans of {d.mean_length:g} leaves too few "
            "tokens between spans: lower noise_density, or raise mean_noise_span_length"
        )


def unsupported_architectures(denoiser) -> dict[str, str]:
    """architecture -> why the denoiser excludes it."""
    if denoiser.targets == "masked":
        why = "decoders cannot predict tokens in place; use targets=full or targets=spans"
        return dict.fromkeys(("decoder", "encoder_decoder"), why)
    if denoiser.targets == "next":
        why = "encoders predict the masked token at its own position; use masked_lm"
        return {"encoder": why, "encoder_decoder": "its encoder reads both sides; use mass_style"}
    if denoiser.targets == "spans":
        return {"encoder": "an encoder does not generate text; use masked_lm"}
    if denoiser.inputs in SHORTER:
        why = f"inputs={denoiser.inputs} removes positions, and an encoder predicts tokens in place"
        return {"encoder": f"{why}; use masked_lm"}
    return {}


def lost_information(denoiser) -> str:
    """Why inputs and targets do not determine the text; '' where they do."""
    if denoiser.targets in (*NOISE_IN_PLACE, "full") or denoiser.inputs in ("mask", "sentinel"):
        return ""
    what = "lengths of the spans" if denoiser.inputs == "mask_span" else "positions of the noise"
    return f"inputs={denoiser.inputs} with targets=spans does not record the {what}"


def _without_effect(d):
    """field -> why it has no effect on this denoiser."""
    reasons = {}
    if d.pattern == "iid":
        reasons["mean_noise_span_length"] = "pattern=iid has no spans"
    if d.pattern not in DRAWN_LENGTHS:
        reasons["max_span_length"] = f"pattern={d.pattern} draws no lengths from a distribution"
    if d.inputs != "bert":
        why = "only inputs=bert mixes [MASK] with other tokens"
        reasons |= dict.fromkeys(("random_token_prob", "keep_token_prob"), why)
    if d.inputs != "sentinel":
        reasons["max_sentinels"] = "only inputs=sentinel has a sentinel for each span"
    if d.targets != "spans":
        reasons["max_target_eos"] = f"targets={d.targets} ends with the [EOS] of the text"
    return reasons

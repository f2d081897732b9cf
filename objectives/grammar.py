"""The grammar of denoisers: <pattern>_<density>_<inputs>_<targets>, its words and what they allow.
After the names that T5 gave its objectives (Raffel et al. 2020, section 3.3); read by denoising.py.
A combination that makes no sense is refused here, with the reason and what to do instead.
"""

import dataclasses
import math

from objectives.noise import check_shares

# pattern -> the mean_span_length where none is given; 0 = it draws units one by one.
PATTERNS = {"iid": 0.0, "span": 3.0, "geometric": 5.0, "poisson": 3.0}
DRAWN = ("geometric", "poisson")  # whose span lengths are random, and so their number
# What the noise looks like in the input: as many tokens as before, each in its place; or fewer.
IN_PLACE = ("mask", "random", "bert", "shuffle")
SHORTER = ("mask_span", "sentinel", "drop")
TARGETS = ("masked", "full", "spans")
WORDS = {"pattern": tuple(PATTERNS), "inputs": IN_PLACE + SHORTER, "targets": TARGETS,
         "unit": ("piece", "word")}  # fmt: skip
TYPING = ("decoder", "encoder_decoder")


def parse(text: str) -> dict:
    """'span_0.15_sentinel_spans' -> {'pattern': 'span', 'noise_density': 0.15, ...}.

    Raises ValueError with the four words where it is not spelled so.
    """
    pattern, _, rest = text.partition("_")
    density, _, rest = rest.partition("_")
    inputs, _, targets = rest.rpartition("_")
    words = {"pattern": pattern, "inputs": inputs, "targets": targets}
    try:
        share = float(density)
    except ValueError:
        share = math.nan
    if share != share or any(word not in WORDS[kind] for kind, word in words.items()):
        raise ValueError(
            f"denoiser {text!r} is not spelled <pattern>_<density>_<inputs>_<targets>: expected "
            f"{'|'.join(PATTERNS)}, a share such as 0.15, {'|'.join(IN_PLACE + SHORTER)}, "
            f"{'|'.join(TARGETS)}"
        )
    return {**words, "noise_density": share}


def spell(denoiser, defaults) -> str:
    """'iid_0.15_bert_masked:unit=word': the four words, and what is not the default of a field."""
    words = (denoiser.pattern, f"{denoiser.noise_density:g}", denoiser.inputs, denoiser.targets)
    idle = _idle(denoiser)
    more = [
        f"{field.name}={getattr(denoiser, field.name)}"
        for field in dataclasses.fields(defaults)
        if field.name not in ("pattern", "noise_density", "inputs", "targets", *idle)
        and getattr(denoiser, field.name) != field.default
    ]
    return "_".join(words) + (":" + ",".join(more) if more else "")


def check(denoiser) -> None:
    """Raises ValueError, one line, for words or numbers that make no denoiser."""
    d = denoiser
    for kind, words in WORDS.items():
        if getattr(d, kind) not in words:
            raise ValueError(f"{kind}={getattr(d, kind)!r}: expected one of {', '.join(words)}")
    default = {field.name: field.default for field in dataclasses.fields(d)}
    for name, why in _idle(d).items():
        if getattr(d, name) != default[name]:
            raise ValueError(f"{name}={getattr(d, name)} has no effect: {why}; leave it out")
    check_shares(d.random, d.keep)
    if d.inputs in SHORTER and d.targets == "masked":
        raise ValueError(
            f"inputs={d.inputs} with targets=masked: what is predicted in its place must have one; "
            f"expected inputs {' or '.join(IN_PLACE)}, or targets=spans"
        )
    if d.unit == "word" and d.pattern == "span":
        raise ValueError(
            "unit=word with pattern=span: T5's spans are a fixed number of pieces; "
            "expected pattern iid, geometric or poisson"
        )
    if d.pattern == "iid":
        return
    if d.mean < 1:
        raise ValueError(f"mean_span_length={d.mean:g}: expected 1 or more, 0 for the usual one")
    if d.noise_density * (1 + 1 / d.mean) > 1:
        raise ValueError(
            f"noise_density={d.noise_density:g} with spans of {d.mean:g} leaves too few tokens to "
            "keep them apart: lower it, or raise mean_span_length"
        )


def unfit(denoiser) -> dict[str, str]:
    """architecture -> why the denoiser makes no sense there."""
    if denoiser.targets == "masked":
        why = "what types does not predict in place; use targets=full or targets=spans"
        return dict.fromkeys(TYPING, why)
    if denoiser.targets == "spans":
        return {"encoder": "an encoder types nothing; use masked_lm"}
    if denoiser.inputs in SHORTER:
        return {"encoder": f"inputs={denoiser.inputs} moves tokens from the places that an encoder "
                           "predicts at; use masked_lm"}  # fmt: skip
    return {}


def irreversible(denoiser) -> str:
    """Why inputs and targets do not give the text back; '' where they do."""
    if denoiser.targets in ("masked", "full") or denoiser.inputs in ("mask", "sentinel"):
        return ""
    return f"inputs={denoiser.inputs} with targets=spans does not tell where the noise stood"


def _idle(d):
    """The fields without an effect beside the others, and why."""
    found = {}
    if d.pattern == "iid":
        found["mean_span_length"] = "pattern=iid draws units one by one"
    if d.pattern not in DRAWN:
        found["max_span_length"] = f"pattern={d.pattern} does not draw lengths"
    if d.inputs != "bert":
        found |= dict.fromkeys(("random", "keep"), "inputs=bert alone mixes masks with others")
    if d.inputs != "sentinel":
        found["max_spans"] = "inputs=sentinel alone has a number of its own for each span"
    if d.targets != "spans":
        found["closed_documents"] = f"targets={d.targets} has the [EOS] that the text has"
    return found

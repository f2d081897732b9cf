"""Objectives: how a model learns from plain text, (key, raw row) -> Batch, hidden states -> sums.
`REGISTRY` is the one place that knows them by name; a new one is a file and a line here.
Imports models/ alone; pure JAX inside the jitted step.
"""

from objectives.base import Objective
from objectives.causal_lm import CausalLM
from objectives.denoising import Denoising
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.mixture import UL2, Mixture
from objectives.named import NAMED
from objectives.prefix_lm import PrefixLM
from objectives.registry import REGISTRY, build, check, pairs_by_architecture, parse, reason
from objectives.replaced_token_detection import ReplacedTokenDetection
from objectives.sentence_pairs import NextSentence, SentenceOrder
from objectives.skip_gram import SkipGram

_LANGUAGE_MODELS = (CausalLM, PrefixLM, FillInTheMiddle)
_OF_THEIR_OWN = (NextSentence, SentenceOrder, ReplacedTokenDetection, SkipGram)
_CLASSES = (*_LANGUAGE_MODELS, *NAMED.values(), Denoising, UL2, Mixture, *_OF_THEIR_OWN)
REGISTRY |= {cls.name: cls for cls in _CLASSES}

<<<<<<< HEAD

def build(name: str, hyperparameters: dict | None = None) -> Objective:
    """The objective of a name. Raises ValueError for a name or a hyperparameter it does not know;
    types and ranges are checked by training/config.py, from the fields' metadata."""
    if name not in REGISTRY:
        raise ValueError(
            f"objective {name!r} is unknown: {_nearest(name, REGISTRY)}"
            f"expected one of {', '.join(REGISTRY)}"
        )
    known = [field.name for field in dataclasses.fields(REGISTRY[name])]
    for key in hyperparameters or {}:
        if key not in known:
            raise ValueError(
                f"objective {name} has no hyperparameter {key!r}: {_nearest(key, known)}"
                f"expected one of {', '.join(known) or 'none at all'}"
            )
    return REGISTRY[name](**(hyperparameters or {}))


def check(objective: Objective, architecture: str) -> None:
    """Raises ValueError unless the objective makes sense, and that for the architecture."""
    if objective.z_loss and "lm" not in objective.coefficients():
        raise ValueError(
            f"objective.z_loss={objective.z_loss} is of a softmax over the vocabulary, which "
            f"{objective.name} has not: set it to 0"
        )
    if architecture in objective.architectures:
        return
    pairs = "; ".join(f"{a}: {', '.join(names)}" for a, names in pairs_by_architecture().items())
    why = reason(objective, architecture)
    raise ValueError(
        f"objective {objective.name} does not fit architecture {architecture!r}"
        f"{f' ({why})' if why else ''}: expected one of these: {pairs}"
    )


def reason(objective: Objective, architecture: str) -> str:
    """Why an objective makes no sense for an architecture; '' where nobody has said."""
    return objective.unfit.get(architecture, "")


def pairs_by_architecture() -> dict[str, list[str]]:
    """Each architecture's objectives, by name."""
    return {
        architecture: [name for name, cls in REGISTRY.items() if architecture in cls.architectures]
        for architecture in ARCHITECTURES
    }


def _nearest(word, words):
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""
=======
__all__ = ["REGISTRY", "Objective", "build", "check", "pairs_by_architecture", "parse", "reason"]
>>>>>>> integrate

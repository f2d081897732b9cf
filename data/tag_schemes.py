"""How tags write entities: BIO (IOB2), IOB1, BIOES (IOBES, BILOU, BMES), or plain tags without entities.

Used by data/tagged.py, which checks the tags of a set, and by the metrics of tasks/tagging.py.
"""

import re
from collections import Counter

_TAG = re.compile(r"([BIESLUM])(?:-(.*))?")
SCHEMES = ("none", "bio", "bioes")
# The letters of other forms of BIOES (BILOU, BMES) -> its own.
_ALIASES = {"L": "E", "U": "S", "M": "I"}
OUTSIDE = "O"


def scheme_of(tags, asked: str = "auto") -> str:
    """The scheme of a set of tags: none, bio or bioes.

    Raises ValueError if another one is `asked` for than the tags can have.
    """
    if asked == "none":
        return asked
    found = {tag: _TAG.fullmatch(tag) for tag in tags if tag != OUTSIDE}
    others = sorted(tag for tag, match in found.items() if match is None)
    letters = {match[1] for match in found.values() if match}
    if asked == "auto":
        return "none" if others or not found else "bioes" if letters - {"B", "I"} else "bio"
    wrong = others or sorted(tag for tag, match in found.items() if match[1] not in "BI")
    if not others and (asked == "bioes" or not wrong):
        return asked
    raise ValueError(
        f"task.scheme={asked!r}, but there is the tag {wrong[0]!r}: expected O and "
        f"{'B-, I-' if asked == 'bio' else 'B-, I-, E-, S-'} with a type; set task.scheme=auto or none"
    )


def canonical(tags: list[str]) -> list[str]:
    """Tags of BILOU or BMES as tags of BIOES; others are unchanged."""
    return [_ALIASES.get(tag[0], tag[0]) + tag[1:] if _TAG.fullmatch(tag) else tag for tag in tags]


def describe(sentences, scheme: str) -> str:
    """The scheme in a few words, for the log, by the tags of sentences."""
    if scheme != "bio":
        return {"none": "plain tags", "bioes": "entities in BIOES"}[scheme]
    starts = Counter()
    for tags in sentences:
        for last, tag in zip([OUTSIDE, *tags], tags, strict=False):
            same = last != OUTSIDE and last[1:] == tag[1:]
            if tag[0] == "B" or (tag[0] == "I" and not same):
                starts[tag[0], same] += 1
    if starts["I", False] and not starts["B", False]:
        return "entities in IOB1"
    wrong = starts["I", False]
    return "entities in BIO" + (
        f" ({wrong:,} start with I-, as conlleval reads them)" * bool(wrong)
    )


def inside(tag: str) -> str:
    """The tag of the next word of the same entity in BIO: I-PER of B-PER; others are unchanged."""
    return f"I{tag[1:]}" if tag == "B" or tag.startswith("B-") else tag

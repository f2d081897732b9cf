"""Tables of docs/huggingface.md, from the tables of the families; a test keeps the page equal.

python -m huggingface.tables        # writes them into the page
"""

import pathlib
import re

from huggingface.config_mapping import GENERAL_KEYS, REFUSED_KEYS, FixedKey
from huggingface.families import FAMILIES
from huggingface.family import Family
from huggingface.rope import SCALINGS

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "huggingface.md"


def _code(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _row(*cells) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head, rows) -> str:
    return "\n".join([_row(*head), _row(*("---" for _ in head)), *(_row(*each) for each in rows)])


def families() -> str:
    """model_type, classes, heads and what a classifier needs."""
    rows = []
    for family in FAMILIES.values():
        heads = [head.rstrip("?") for each in family.classes.values() for head in each.split()]
        heads = [head for head in dict.fromkeys(heads) if "/" not in head]
        options = []
        for head, needs in family.head_needs.items():
            named = " ".join(f"`{name}={value}`" for name, value in needs.items())
            if family.pooling_key[0] and "pooling" in family.head_needs_in({}, head):
                named += f" `pooling={' or '.join(family.pooling_key[1])}`"
            options.append(f"{head}: {named}")
        options = "; ".join(options)
        rows.append([f"`{family.model_type}`", _code(family.classes), ", ".join(heads), options])
    head = ("`model_type`", "classes", "heads", "options of a task head (`config.task.*`)")
    return _table(head, rows)


def _names(key) -> tuple[str, ...]:
    return key.hf if isinstance(key.hf, tuple) else (key.hf,)


def keys() -> str:
    """The table of the keys of config.json that each family reads, fixes or renames."""
    rows = []
    for family in FAMILIES.values():
        read = [n for k in family.config_keys if not isinstance(k, FixedKey) for n in _names(k)]
        fixed = [f"{k.hf}={k.value}" for k in family.config_keys if isinstance(k, FixedKey)]
        aliases = [f"{alias} = {name}" for alias, name in family.aliases.items()]
        rows.append(
            [f"`{family.model_type}`", _code(dict.fromkeys(read)), _code(fixed), _code(aliases)]
        )
    return _table(("`model_type`", "read", "one value, others refused", "aliases"), rows)


def unused() -> str:
    """Keys whose value changes nothing, by reason."""
    reasons: dict[str, list[str]] = {}
    for key, reason in GENERAL_KEYS.items():
        reasons.setdefault(reason, []).append(key)
    for family in FAMILIES.values():
        for key, reason in _own_unused(family).items():
            found = reasons.setdefault(reason, [])
            found += [key] if key not in found else []
    rows = [[reason, _code(names)] for reason, names in reasons.items()]
    rows.append(["refused in every family unless it has no effect", _code(REFUSED_KEYS)])
    return _table(("why", "keys"), rows)


def _own_unused(family: Family) -> dict[str, str]:
    found = dict(family.unused)
    if family.head_dropout_key:
        found[family.head_dropout_key] = (
            "dropout of the head: `task.head_dropout_rate` in finetuning"
        )
    return found


def scalings() -> str:
    """RoPE types and their keys."""
    rows = [
        [f"`{kind}`", _code(keys), _code(f"model.{field}" for field in keys.values())]
        for kind, keys in SCALINGS.items()
    ]
    return _table(("`rope_type`", "keys", "fields"), rows)


TABLES = {"families": families, "keys": keys, "unused": unused, "scalings": scalings}


def filled(page: str) -> str:
    """The page with each table between its markers."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)"
        page = re.sub(pattern, lambda m, t=table: m[1] + t() + m[2], page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))

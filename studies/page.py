"""The page of a study: one HTML file that needs nothing else, for a desk or a phone, light or dark.

Called by studies/report.py with the contents of results.json and the panels of studies/figures.py.
"""

import html
import pathlib
import string

from studies import figures, table

TEMPLATE = string.Template(
    pathlib.Path(__file__).with_name("page.html").read_text(encoding="utf-8")
)

CAPTIONS = {
    "efficiency": (
        "What pretraining buys, by number of labels",
        "Test accuracy, mean ± standard error over the seeds; each small dot is one seed. The dashed line is "
        "TF-IDF with logistic regression on the same labels, the flat one the most frequent label.",
    ),
    "finetuning": (
        "Finetuning",
        "Mean over the seeds, band ± standard error, one scale for all panels. "
        "Every arm takes the same number of updates.",
    ),
    "pretraining": (
        "Pretraining",
        "Loss of the training batches (thin) and held-out loss (dots). A loss at the dotted line, the "
        "entropy of single tokens, has learned word frequencies and nothing else. The three "
        "losses score different targets and do not compare.",
    ),
}
ARM_WORDS = {
    "none": "none: random initialisation",
    "embeddings": "embeddings: the pretrained token embeddings alone",
    "all": "all: every pretrained parameter",
}


def render(found, drawn):
    """The page as text.

    Args:
      found: contents of results.json.
      drawn: figures.panels(found).
    """
    sections = [_figures("efficiency", drawn), _table(found)]
    sections += [_figures(name, drawn) for name in ("finetuning", "pretraining")]
    sections += [_conditions(found)]
    return TEMPLATE.substitute(
        title=html.escape(found["config"]["title"]),
        lead=_lead(found),
        findings="".join(_findings(found)),
        sections="\n".join(filter(None, sections)),
    )


def _lead(found):
    arms = "".join(
        f'<span><i class="dot" style="background:var(--{arm})"></i>{ARM_WORDS[arm]}</span>'
        for arm in found["config"]["arms"]
    )
    seeds = len(found["config"]["seeds"])
    words = (
        f"<p>Each architecture is pretrained once and then finetuned on few labels, from "
        f"{len(found['config']['arms'])} starting points, with {seeds} paired seeds.</p>"
        f"<p class='legend soft'>{arms}</p>"
    )
    if not found["complete"]:
        words += (
            f"<p class='warning'>This study is not finished: {found['cells_done']} of "
            f"{found['cells_wanted']} finetuning runs have ended.</p>"
        )
    return words


def _findings(found):
    """One card per architecture: the gain of the last arm at the smallest budget."""
    budget = min(found["config"]["budgets"])
    arm = found["config"]["arms"][-1]
    for row in found["summary"]:
        if row["budget"] != budget or row["arm"] != arm or "paired" not in row:
            continue
        paired = row["paired"]
        clear = paired["ratio"] is not None and paired["ratio"] > 2
        yield (
            f'<div class="finding{"" if clear else " open"}">'
            f'<span class="soft">{figures.WORDS[row["architecture"]]}, {budget:,} labels</span>'
            f"<b>{100 * paired['mean']:+.1f} points</b>"
            f'<span class="soft">{arm} over {paired["reference"]}: {row["accuracy"]["mean"]:.3f} against '
            f"{row['accuracy']['mean'] - paired['mean']:.3f}, {paired['won']} of {paired['count']} pairs "
            f"won, {_ratio(paired)}</span></div>"
        )


def _ratio(paired):
    if paired["ratio"] is None:
        return "no error from one seed"
    if abs(paired["ratio"]) > 1e3:
        return "all pairs equal"
    return f"{paired['ratio']:.1f} standard errors"


def _figures(name, drawn):
    if name not in drawn:
        return ""
    heading, caption = CAPTIONS[name]
    cards = "".join(
        f"<figure><h3>{html.escape(title)}</h3>{figures.svg(draw)}</figure>"
        for title, draw in drawn[name]
    )
    return f'<h2>{heading}</h2><p class="soft">{caption}</p><div class="panels">{cards}</div>'


def _table(found):
    reference = found["config"]["arms"][0]
    heads = ("from", "test accuracy", f"minus {reference}", "pairs won", "learning rate", "tokens read",
             "parameters*", "FLOPs", "targets scored")  # fmt: skip
    head = "".join(
        f'<th class="left">{h}</th>' if i == 0 else f"<th>{h}</th>" for i, h in enumerate(heads)
    )
    body = []
    for architecture in found["config"]["architectures"]:
        for budget in found["config"]["budgets"]:
            rows = [
                r
                for r in found["summary"]
                if (r["architecture"], r["budget"]) == (architecture, budget)
            ]
            if not rows:
                continue
            objective = found["pretraining"][architecture]["objective"]
            body.append(
                f'<tr><th colspan="{len(heads)}">{figures.WORDS[architecture]} '
                f'<span class="soft">({objective}), {budget:,} labels</span></th></tr>'
            )
            body += [_row(row) for row in rows]
            body.append(
                f'<tr><td class="left"><i class="dot" style="background:var(--baseline)"></i>TF-IDF</td>'
                f"<td>{table.baseline_words(found, budget)}</td>{'<td></td>' * (len(heads) - 2)}</tr>"
            )
    notes = "".join(f'<p class="note">{html.escape(line)}</p>' for line in table.notes(found))
    return (
        f'<h2>The table</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div><p class="note">* outside the embedding '
        f"tables. Tokens, FLOPs and targets are those of the pretraining behind each row.</p>{notes}"
    )


def _row(row):
    _, arm, accuracy, paired, won, *matched = map(html.escape, table.cells_of(row))
    clear = row.get("paired", {}).get("ratio") is not None and row["paired"]["ratio"] > 2
    cells = [
        accuracy,
        f'<span class="{"won" if clear else ""}">{paired}</span>',
        won,
        f"{row['rate']:g}",
        *matched,
    ]
    return (
        f'<tr><td class="left"><i class="dot" style="background:var(--{arm})"></i>{arm}</td>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _conditions(found):
    about = found["about"]
    facts = {
        "data fingerprint": ", ".join(found["fingerprint"]),
        "commit": about["commit"][:12] or "not a git checkout",
        "machine": f"{about['devices']['count']} × {about['devices']['kind']}, {about['cores']} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "Python": about["python"],
        "seeds": ", ".join(map(str, found["config"]["seeds"])),
        "pretraining": "; ".join(found["config"]["pretrain"]) or "as in the configs",
        "finetuning": "; ".join(found["config"]["finetune"]) or "as in the config",
    }
    listed = "".join(
        f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items()
    )
    command = html.escape(" ".join(about["command"]))
    return f"<h2>Conditions</h2><dl>{listed}</dl><h2>The command</h2><pre>{command}</pre>"

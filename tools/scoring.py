"""Runs a suite of evaluation/ for tools/evaluate.py: progress, resume, tables, JSON and a chart.

score_store.py keeps results as they come, so that a killed command continues.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os

import flax.errors
import jax
import numpy as np

import objectives
from data.files import content_hash, digest, expand, write_atomically
from data.tokenizer import describe_unknown
from evaluation import SUITES, Scorer, choose_way
from evaluation.items import Item, Summary
from generation.prompts import adapter_positions
from tools import score_chart
from tools.loaded_run import load_run, objective_of
from tools.score_store import Progress, Results
from training import cli, paths, sharding
from training.config import ConfigError

log = logging.getLogger("triptych")
BLOCK = 32_768  # positions that the model reads between two writes of FILE.partial


def run(given) -> dict:
    """Evaluates what the parsed flags name; returns what --output holds."""
    suite = SUITES[given.suite]
    score_chart.check_paths(given)
    fields = renamed_fields(given.field, suite.roles)
    cli.enable_compilation_cache()
    loaded = load_run(given.run)
    with sharding.use_mesh(loaded.mesh):
        scorer = make_scorer(loaded, given)
        options = {
            "fields": fields, "scoring": given.scoring, "separator": given.separator,
            "text_field": given.text_field, "can_be_greedy": not scorer.way.is_per_token,
            "delimiter": given.delimiter.replace("\\n", "\n").replace("\\t", "\t"),
        }  # fmt: skip
        files = data_files(given.data)
        items = read_items(suite, files, options, given.limit)
        log.info(f"{loaded.name}: {len(items):,} items, {scorer.way.describe()}")
        identity = {
            "suite": given.suite, "run": loaded.name,
            "params": params_digest(loaded.params) if given.output else "",
            "tokenizer": loaded.tokenizer.fingerprint, "scoring": repr_of(scorer),
            "options": {k: v for k, v in options.items() if k != "scoring"} | {"limit": given.limit},
            "data": {label: digest_of(path, label, items) for path, label in files.items()},
        }  # fmt: skip
        results = score_items(suite, scorer, items, Results(given.output, identity, len(items)))
    summary = suite.summarize(results)
    print("\n".join(render(summary)))
    content = {"of": loaded.name, "suite": given.suite, "scoring": scorer.way.describe(),
               "metrics": summary.metrics, "identity": identity, "items": results}  # fmt: skip
    if given.output:
        write_atomically(given.output, (json.dumps(content) + "\n").encode())
        if not paths.remote(given.output):
            paths.of(given.output + Results.SUFFIX).unlink(missing_ok=True)
    if chart := score_chart.path_of(given):
        score_chart.write(chart, summary, f"{loaded.name}, {given.suite}")
    return content


def renamed_fields(pairs, roles) -> dict[str, str]:
    """{role: field} of 'ROLE=NAME' words."""
    found = {}
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if role not in roles or not equals or not name:
            raise ConfigError(
                f"--field {pair}: expected ROLE=NAME with a role of {', '.join(roles)}"
            )
        found[role] = name
    return found


def last_objective(config: dict, architecture: str):
    """The objective in whose form a run with this config was trained last; None if it names none."""
    task = config.get("task") or {}
    if task.get("name") in ("seq2seq", "text_to_text"):  # a prefix LM: it generates after a source
        reads_both_ways = architecture != "decoder" or task.get("attention") == "prefix"
        return objectives.build("prefix_lm") if reads_both_ways else None
    return objective_of(config)


def make_scorer(loaded, given) -> Scorer:
    """The Scorer of a loaded run, checked before any text is read."""
    objective = last_objective(loaded.record["config"], loaded.config.architecture)
    if "discriminator" in loaded.params.get("heads", {}):
        raise ConfigError(
            f"{loaded.name} is a discriminator, which has no probabilities of tokens: evaluate a run of "
            "another objective, such as masked_lm"
        )
    way = choose_way(
        given.scoring, loaded.config.architecture, loaded.tokenizer, objective, given.start_token
    )
    num_virtual_tokens = max(adapter_positions(loaded.model).values())
    divisor = sharding.num_batch_shards(loaded.mesh)
    hidden = np.zeros((1, 1, loaded.config.emb_dim), np.dtype(loaded.config.dtype))
    features = functools.partial(loaded.model.apply, method="lm_features")
    try:
        jax.eval_shape(features, {"params": loaded.params}, hidden)
    except flax.errors.ScopeParamNotFoundError as error:
        raise ConfigError(
            f"{loaded.name} has no LM head, as finetuning for labels drops it: evaluate the pretrained run"
        ) from error
    return Scorer(
        loaded.model, loaded.params, loaded.tokenizer, way,
        max_len=given.max_seq_len or loaded.config.max_length - num_virtual_tokens,
        stride=given.stride, batch_divisor=divisor,
        place=lambda batch: sharding.global_array(loaded.mesh, batch),
        packing=not num_virtual_tokens,
        batch_tokens=given.batch_tokens,
    )  # fmt: skip


def repr_of(scorer) -> dict:
    """What decides the scores of a text, besides the model."""
    way = {f.name: getattr(scorer.way, f.name) for f in dataclasses.fields(scorer.way)}
    way["vocabulary"] = ""  # the tokenizer has it
    way["template"] = dataclasses.asdict(way["template"])
    return json.loads(json.dumps({
        "way": type(scorer.way).__name__, **way, "max_len": scorer.max_len, "stride": scorer.stride,
    }))  # fmt: skip


def data_files(data) -> dict[str, str]:
    """{file or source: its label, unique}. A word that is no source is a pattern of files."""
    found = []
    for name in data:
        is_source = name.startswith(("text:", "jsonl:", "tfds:", "(")) or name == "python_docs"
        found += [name] if is_source else expand(name, log.info)
    found = list(dict.fromkeys(found))
    short = [os.path.basename(path) for path in found]
    return {
        path: base if short.count(base) == 1 else path
        for path, base in zip(found, short, strict=True)
    }


def read_items(suite, files, options, limit) -> list[Item]:
    """The items of all files, in order; `limit` evenly spaced ones of each."""
    items = []
    for path, label in files.items():
        found = suite.items(path, options, log.info)
        if limit and limit < len(found):
            found = [found[n * len(found) // limit] for n in range(limit)]
        items += [
            dataclasses.replace(item, record={"file": label, **item.record}) for item in found
        ]
    return items


def digest_of(path, label, items) -> str:
    """The digest of a file's content, or of the texts that a source has."""
    if os.path.isfile(path):
        return content_hash(path)
    return digest([item.requests for item in items if item.record["file"] == label])


def params_digest(params) -> str:
    """The digest of all parameters."""
    found = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(params):
        found.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return found.hexdigest()


def score_items(suite, scorer, items, store) -> list[dict]:
    """The results of the items, in order; results in `store` are not computed again."""
    left = [n for n in range(len(items)) if n not in store.known]
    if store.known:
        log.info(f"{len(store.known):,} of {len(items):,} items are known from an earlier command")
    encoded = encode_items(scorer, items, left)
    texts = [text for n in left for text in encoded[n]]
    warn_of_unknown(scorer.tokenizer, texts)
    scorer.plan(texts)
    work = {n: sum(len(e.tokens) * scorer.num_rows(e) for e in encoded[n]) for n in left}
    left.sort(key=lambda n: (-max(len(e.tokens) for e in encoded[n]), n))  # few shapes at a time
    progress = Progress(sum(work.values()), len(items) - len(left), len(items))
    try:
        for block in blocks(left, work):
            scores = iter(scorer.score_encoded([e for n in block for e in encoded[n]]))
            found = {n: suite.result(items[n], [next(scores) for _ in encoded[n]]) for n in block}
            store.add(found)
            progress.add(len(block), sum(work[n] for n in block))
    except KeyboardInterrupt:
        kept = f" are in {store.path}: the same command continues" * bool(store.path)
        raise KeyboardInterrupt(
            f"interrupted; {len(store.known):,} items{kept or ' were done'}"
        ) from None
    finally:
        progress.close()
        store.close()
    report(scorer, progress)
    return [store.known[n] for n in range(len(items))]


def encode_items(scorer, items, numbers) -> dict[int, list]:
    """{number of an item: its requests, encoded}. Raises ValueError for a text without a token."""
    encoded = iter(scorer.encode([request for n in numbers for request in items[n].requests]))
    found = {n: [next(encoded) for _ in items[n].requests] for n in numbers}
    for n, texts in found.items():
        for text, (_, continuation) in zip(texts, items[n].requests, strict=True):
            if len(text.tokens) == text.first:
                raise items[n].error(
                    f"has {continuation[:40]!r}, of which the tokenizer makes no token: remove it"
                )
    return found


def warn_of_unknown(tokenizer, texts):
    """Logs a share of unknown tokens above 1 %: they are easy to predict, and all words alike."""
    unknown, tokens = tokenizer.special_ids()["unk"], [each.tokens for each in texts]
    count, total = sum(int((ids == unknown).sum()) for ids in tokens), sum(map(len, tokens))
    if count > 0.01 * total:
        log.info(*describe_unknown("the data", count, total))


def blocks(numbers, work):
    """Groups of item numbers with about BLOCK positions each, which `work` has by item."""
    block, size = [], 0
    for number in numbers:
        block.append(number)
        size += work[number]
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def report(scorer, progress):
    """Logs what the numbers do not cover."""
    if scorer.num_unpredicted:
        log.info(
            f"{scorer.num_unpredicted:,} first tokens are not counted: nothing predicts them, as the decoder "
            "reads no token before a text (--start_token=TOKEN gives it one)"
        )
    if scorer.num_cut:
        log.info(
            f"{scorer.num_cut:,} contexts are longer than {scorer.max_len} positions and were cut at their "
            "start (--max_seq_len)"
        )
    if progress.rate:
        log.info(f"{progress.done - progress.known:,} items{progress.rate}, packed into rows of "
                 f"{' and '.join(str(width) for width, _ in scorer.shapes)}")  # fmt: skip


def render(summary: Summary):
    """The lines of the tables, then of the metrics that are single numbers."""
    for title, rows in summary.tables:
        yield from _table(rows, title)
        yield ""
    single = {key: value for key, value in summary.metrics.items() if not isinstance(value, dict)}
    if single:
        yield "  ".join(f"{key} {_cell(value)}" for key, value in single.items())


def _table(rows, title):
    names = list(dict.fromkeys(key for row in rows for key in row if not key.endswith("stderr")))
    cells = [[_with_error(row, name) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[n]) for row in cells)) for n, name in enumerate(names)]
    for row in (names, *cells):
        first, *others = (
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *others)).rstrip()


def _with_error(row, name):
    error = row.get(f"{name}_stderr", row.get("stderr") if name == "accuracy" else None)
    cell = _cell(row.get(name, ""))
    return cell if error is None else f"{cell} ± {error:.4f}"


def _cell(value):
    if isinstance(value, float):
        return f"{value:,.4f}" if value < 1e6 else f"{value:.3e}"
    return f"{value:,}" if isinstance(value, int) else value

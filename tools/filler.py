"""A run, or a published model, that fills the masks of texts, in the way that it was pretrained to.

Between generation/, which has tokens, and tools/fill_mask.py. Text is never a special token but at its masks.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import objectives
from data.special_tokens import template_for
from generation import (
    FillConfig,
    GenerationConfig,
    Prompt,
    fill,
    generate,
    longest_row,
    mask_positions,
    top_tokens,
)
from objectives.denoising import Denoising
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.mixture import MODES, SampledObjective
from objectives.sentence_pairs import SentencePairs
from tools.loaded_run import LoadedRun, load_run, resolve_run
from tools.prompts import published_origin, published_settings
from training import config as configs
from training import run_directory, sharding
from training.config import ConfigError

MASK = "[MASK]"
_SENTINEL = re.compile(r"<extra_id_\d+>")
# How a model fills, the preferred one of a mixture first: in place (also at the position before), spans
# after their sentinels, a whole text whose masks are filled, or the middle after a prefix and a suffix.
KINDS = ("in_place", "next", "sentinels", "masks", "middle")
# Families of published encoder-decoders -> how they were pretrained.
_PUBLISHED = {"t5": "sentinels", "bart": "masks"}
_REMEDY = (
    "name an encoder trained with masked_lm, a decoder trained with mntp, hybrid or fill_in_the_middle, "
    "or an encoder-decoder trained with span_corruption or text_infilling"
)


class Way(NamedTuple):
    """How a run fills."""

    kind: str  # of KINDS
    about: str  # its objective, or class of a published model
    mode: str = ""  # of a mixture: R, S or X
    whole: bool = False  # it generates the whole text, not the masked-out parts alone
    suffix_first: bool = False  # fill_in_the_middle in the order SPM alone


class Text(NamedTuple):
    """A text to fill, as parts with a special token between each two."""

    place: str  # for errors
    text: str
    parts: list[str]
    markers: list[str]


def way_of(record: dict, origin: dict, name: str) -> Way:
    """How a run fills, from its config.json and what its manifest knows of a published directory. Raises
    ConfigError for one that does not."""
    config, architecture = record["config"], record["model"]["architecture"]
    if task := config.get("task", {}).get("name") or origin.get("head", ""):
        raise ConfigError(
            f"{name} is finetuned for {task} and fills no masks; name the run that it was finetuned from"
        )
    if "objective" in config:
        given = dict(config["objective"])
        about = given.pop("name")
        objective = configs.resolve(objectives.OBJECTIVES[about], given, "config.objective")
        ways = list(_ways(objective, architecture))
    else:
        about = origin.get("class", "a published model")
        kind = _PUBLISHED.get(origin.get("model_type", ""), "")
        kind = "in_place" if architecture == "encoder" else kind
        ways = [Way(kind, about, whole=kind == "masks")] if kind else []
    if not ways:
        raise ConfigError(f"{name} was pretrained as {about}, which fills no masks; {_REMEDY}")
    return min(ways, key=lambda way: KINDS.index(way.kind))


def _ways(objective, architecture, mode=""):
    """The ways in which a model of this objective fills."""
    about = f"{objective.name}{f' [{mode}]' if mode else ''}"
    if isinstance(objective, SampledObjective):
        for component in objective.parsed:
            yield from _ways(component.objective, architecture, component.mode)
    elif isinstance(objective, SentencePairs):
        if objective.mlm_loss_weight:
            yield Way("in_place", about)
    elif isinstance(objective, FillInTheMiddle):
        if objective.fim_rate:
            yield Way("middle", about, suffix_first=objective.spm_rate == 1)
    elif isinstance(objective, Denoising):
        whole = objective.targets == "full"
        if objective.inputs == "sentinel":
            yield Way("sentinels", about, mode, whole)
        elif objective.fills_masks and (whole or objective.inputs != "mask_span"):
            kind = "in_place" if architecture == "encoder" else "masks"
            yield Way("next" if objective.targets == "next" else kind, about, mode, whole)


class Filler:
    """The model of a run, and how it fills.

    Attributes:
      name: the run and its step.
      way: how it fills.
    """

    def __init__(self, run: str, mesh=None):
        """Opens a run directory[@step] or a Hugging Face directory. Raises ConfigError for a model that
        fills no masks, before its parameters are read."""
        directory, step, self.name = resolve_run(run)
        self._run, self._mesh = f"{directory}@{step}", mesh
        origin = published_origin(run_directory.read_manifest(directory))
        self.way = way_of(run_directory.read_config(directory), origin, self.name)

    @functools.cached_property
    def loaded(self) -> LoadedRun:
        """The model with its parameters, which are read here."""
        loaded = load_run(self._run, self._mesh)
        config = loaded.config
        has_head = config.lm_head_bias or config.lm_head_transform or not config.tie_word_embeddings
        if has_head and "lm" not in loaded.params.get("heads", {}):
            raise ConfigError(
                f"{self.name} ({self.way.about}) has no language-modeling head, which fills masks; {_REMEDY}"
            )
        return loaded

    @functools.cached_property
    def _template(self):
        tokenizer, architecture = self.loaded.tokenizer, self.loaded.config.architecture
        documents = self.way.kind == "next"  # it was trained on whole documents, with their end
        return template_for(architecture, tokenizer.special_ids(), tokenizer.template, documents)

    @property
    def is_in_place(self) -> bool:
        """Whether it predicts each mask at its position, or at the one before."""
        return self.way.kind in ("in_place", "next")

    def describe(self) -> str:
        """One line for the log."""
        how = {
            "in_place": "predicts the token of each [MASK]",
            "next": "predicts the token of each [MASK] at the position before it",
            "sentinels": "generates the text of each span",
            "masks": "generates the masked text",
            "middle": "generates the text at the [MASK]",
        }[self.way.kind]
        return f"{self.name}: {self.loaded.config.architecture}, {self.way.about}, {how}"

    # ---- Texts -----------------------------------------------------------------------------------

    def parse(self, place: str, text: str, appended: int = 0) -> Text:
        """The parts of a text around its masks: [MASK], the tokenizer's own mask token, or <extra_id_0>, ...
        of a model with sentinels; after it `appended` masks. Raises ValueError of one line."""
        tokenizer, ids = self.loaded.tokenizer, self.loaded.vocabulary
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{place} has {text[error.start]!r}, which is not valid text: write it as UTF-8"
            ) from error
        if ids.mask < 0 and self.way.kind not in ("sentinels", "middle"):
            raise ValueError(f"{self.name} has a tokenizer without a mask token; {_REMEDY}")
        own = tokenizer.token(ids.mask) if ids.mask >= 0 else MASK
        if appended and not self.is_in_place:
            raise ValueError(
                f"--append_masks={appended}: {self.name} ({self.way.about}) generates text; python -m "
                "tools.generate continues a prompt"
            )
        pattern = "|".join(re.escape(name) for name in sorted({MASK, own}))
        if self.way.kind == "sentinels":
            pattern = f"{pattern}|{_SENTINEL.pattern}"
        # The blank before a mask belongs to the token that fills it, as in most vocabularies.
        parts = re.split(f"(?:(?<=\\S) )?({pattern})", text)
        parts, found = parts[::2], parts[1::2]
        if not found and not appended:
            example = "<extra_id_0>" if self.way.kind == "sentinels" else MASK
            raise ValueError(
                f"{place} has no mask to fill ({text[:40]!r}); write {example} in the text, such as 'the "
                f"{example} of the model'"
            )
        if self.way.kind == "middle" and len(found) > 1:
            raise ValueError(
                f"{place} has {len(found)} masks, but {self.way.about} fills one gap between two texts; "
                f"leave one {MASK}"
            )
        if self.way.kind == "sentinels":
            found = self._sentinels(place, found)
        else:
            found = [own] * (len(found) + appended)
            parts += [""] * appended
        return Text(place, text, parts, found)

    def _sentinels(self, place, found):
        """The sentinels of a text in order; each [MASK] is the next one."""
        expected = [self.loaded.tokenizer.token(i) for i in self.loaded.vocabulary.sentinels]
        if len(found) > len(expected):
            raise ValueError(
                f"{place} has {len(found):,} masks, but the tokenizer has {len(expected)} sentinels; leave "
                "some out"
            )
        if any(_SENTINEL.fullmatch(name) for name in found) and found != expected[: len(found)]:
            raise ValueError(
                f"{place} has the masks {' '.join(found[:6])}; write <extra_id_0>, <extra_id_1>, ... in this "
                f"order, or {MASK} for each"
            )
        return expected[: len(found)]

    def row(self, text: Text) -> np.ndarray:
        """int32[n]: the text with its special tokens. Raises ValueError for one that is too long."""
        loaded, template, before = self.loaded, self._template, ()
        if self.way.mode:
            before = (loaded.vocabulary.modes[MODES.index(self.way.mode)],)
        if self.way.kind == "middle":
            return self._middle_row(text)
        ids = loaded.tokenizer.encode_marked(text.parts, text.markers)
        suffix = template.suffix
        if loaded.config.architecture == "decoder":  # it reads whole documents
            suffix = (loaded.vocabulary.eos,)
        row = np.array([*before, *template.prefix, *ids, *suffix], np.int32)
        if self.is_in_place:
            mask_positions(loaded.model, row, text.place, **self._mask)
        return self._checked(row, text.place)

    def _middle_row(self, text):
        """[PRE] prefix [SUF] suffix [MID], or [PRE] [SUF] suffix [MID] prefix."""
        pre, suf, mid = self.loaded.vocabulary.infill
        prefix, suffix = (ids.tolist() for ids in self.loaded.tokenizer.encode_batch(text.parts))
        row = [pre, *prefix, suf, *suffix, mid]
        if self.way.suffix_first:
            row = [pre, suf, *suffix, mid, *prefix]
        return self._checked(np.array([*self._template.prefix, *row], np.int32), text.place)

    def _checked(self, row, place):
        limit = longest_row(self.loaded.config) - (self.loaded.config.architecture == "decoder")
        if len(row) > limit:
            raise ValueError(
                f"{place} has {len(row):,} tokens, but the model reads at most {limit:,}: shorten it"
            )
        return row

    @property
    def _mask(self):
        return {"mask": self.loaded.vocabulary.mask, "is_next": self.way.kind == "next"}

    # ---- Filling ---------------------------------------------------------------------------------

    def fill(
        self, texts: Sequence[Text], rows, config: FillConfig, seeds, max_new_tokens=0
    ) -> list:
        """A record of each text: {'text', 'fills': [{'text', 'filled', 'probability', 'log_prob'}, ...]},
        best first, and for a model that predicts in place 'masks', the likeliest tokens of each mask.

        Args:
          rows: of the texts, from `row`.
          seeds: of the rows.
          max_new_tokens: of a model that generates; 0: by the text.
        """
        with sharding.use_mesh(self.loaded.mesh):
            if self.is_in_place:
                return self._fill_in_place(texts, rows, config, seeds)
            return self._generate(texts, rows, config, seeds, max_new_tokens)

    def _fill_in_place(self, texts, rows, config, seeds):
        loaded = self.loaded
        common = {**self._mask, "candidates": loaded.vocabulary.regular_token_ranges,
                  "mesh": loaded.mesh}  # fmt: skip
        n = config.num_return_sequences
        tokens = top_tokens(loaded.model, loaded.params, rows, n, **common)
        filled = fill(loaded.model, loaded.params, rows, config, seeds=seeds, **common)
        records = []
        for text, row, masks, fills in zip(texts, rows, tokens, filled, strict=True):
            at = np.asarray(row) == loaded.vocabulary.mask
            found = [
                _record(self._text_of(each.tokens), self._each(each.tokens[at]), each.score)
                for each in fills
            ]
            likeliest = [
                [
                    {"token": token, "id": int(i), "probability": math.exp(p)}
                    for token, i, p in zip(self._each(ids), ids, log_probs, strict=True)
                ]
                for ids, log_probs in masks
            ]
            records.append({"text": text.text, "fills": found, "masks": likeliest})
        return records

    def _each(self, ids):
        return [self.loaded.tokenizer.decode([i]) for i in ids]

    def _text_of(self, row):
        """The text of a row without the special tokens around it."""
        template, length = self._template, len(row)
        return self.loaded.tokenizer.decode(
            row[len(template.prefix) : length - len(template.suffix)]
        )

    def _generate(self, texts, rows, config, seeds, max_new_tokens):
        loaded, n = self.loaded, config.num_return_sequences
        both = loaded.config.architecture == "encoder_decoder"
        records = []
        for text, row, seed in zip(texts, rows, seeds, strict=True):
            read, start, eos_ids = row, (), [loaded.vocabulary.eos]
            if both:
                start = self._start()
            if self.way.kind == "sentinels" and not self.way.whole:
                start = (*start, loaded.vocabulary.sentinels[0]) if both else ()
                eos_ids += loaded.vocabulary.sentinels[len(text.markers) :][:1]
            limit = max_new_tokens or self._limit(text, row)
            used = len(start) if both else len(read)
            prompt = Prompt(
                read, prefix=not both and self.way.kind != "middle",
                decoder_tokens=np.array(start, np.int32),
                max_new_tokens=max(1, min(limit, longest_row(loaded.config) - used)), seed=seed,
            )  # fmt: skip
            options = GenerationConfig(
                temperature=config.temperature, num_return_sequences=n,
                num_beams=1 if config.temperature else n, max_new_tokens=prompt.max_new_tokens,
            )  # fmt: skip
            (found,) = generate(
                loaded.model,
                loaded.params,
                [prompt],
                options,
                eos_ids=tuple(eos_ids),
                mesh=loaded.mesh,
            )
            fills = [self._filled(text, row, each) for each in found]
            records.append({"text": text.text, "fills": fills})
        return records

    def _start(self):
        """The tokens that the decoder of an encoder-decoder starts with."""
        settings = published_settings(self.loaded)
        start = settings.get("decoder_start_token_id", self.loaded.vocabulary.start)
        forced = settings.get("forced_bos_token_id")
        return (start,) if forced is None else (start, forced)

    def _limit(self, text, row):
        """Tokens to generate: of each span, or somewhat more than the text has."""
        return 32 * len(text.markers) + (len(row) if self.way.whole else 0)

    def _filled(self, text, row, generated):
        """A record of one generated sequence."""
        ids, tokenizer = self.loaded.vocabulary, self.loaded.tokenizer
        special = {ids.eos, ids.pad, ids.sep, ids.cls, ids.start} - {-1}
        tokens = [t for t in generated.tokens.tolist() if t not in special]
        about = {"finish_reason": generated.finish_reason}
        if self.way.whole:
            return _record(tokenizer.decode(tokens), None, generated.score) | about
        if self.way.kind == "middle":
            prefix, suffix = (part.tolist() for part in tokenizer.encode_batch(text.parts))
            whole, spans = [*prefix, *tokens, *suffix], [tokens]
        elif self.way.kind == "masks":  # a token for each mask
            spans = [[t] for t in tokens[: len(text.markers)]]
            spans += [[]] * (len(text.markers) - len(spans))
            whole = self._restored(row, dict(enumerate(spans)), [ids.mask])
        else:
            used, spans, at = ids.sentinels[: len(text.markers)], {}, ids.sentinels[0]
            for token in tokens:
                at = token if token in ids.sentinels else at
                if token not in ids.sentinels:
                    spans.setdefault(at, []).append(token)
            spans = [spans.get(sentinel, []) for sentinel in used]
            whole = self._restored(row, dict(enumerate(spans)), used)
        filled = [tokenizer.decode(span) for span in spans]
        return _record(tokenizer.decode(whole), filled, generated.score) | about

    def _restored(self, row, spans, markers):
        """The tokens of the text with the i-th marker replaced by spans[i]."""
        ids, place, tokens = self.loaded.vocabulary, 0, []
        around = {*self._template.prefix, *self._template.suffix, *ids.modes, ids.eos}
        for token in row.tolist():
            if token in markers:
                tokens += spans[place]
                place += 1
            elif token not in around:
                tokens.append(token)
        return tokens


def _record(text: str, filled: list[str] | None, log_prob: float) -> dict[str, Any]:
    record = {"text": text} if filled is None else {"text": text, "filled": filled}
    return record | {"probability": math.exp(min(log_prob, 0.0)), "log_prob": log_prob}

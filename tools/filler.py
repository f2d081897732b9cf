"""A run, or a published model, that fills the masks of texts, in the way that it was pretrained to.

Between generation/, which has tokens, and tools/fill_mask.py. Text is never a special token but at its masks.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.special_tokens import template_for
from generation import FillConfig, fill, longest_row, mask_positions, top_tokens
from objectives.denoising import Denoising
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.mixture import SampledObjective, mode_tokens
from objectives.sentence_pairs import SentencePairs
from tools.infilling import Text, infill, record_of
from tools.loaded_run import LoadedRun, load_run, objective_of, resolve_run
from tools.prompts import published_origin
from training import run_directory, sharding
from training.config import ConfigError

MASK = "[MASK]"
_SENTINEL = re.compile(r"<extra_id_\d+>")
_ANY_MARK = re.compile(rf"{_SENTINEL.pattern}|<mask>|\[mask\]", re.IGNORECASE)  # of any model
# How a model fills, the preferred one of a mixture first: in place (also at the position before), spans
# after their sentinels, a whole text whose masks are filled, or the middle after a prefix and a suffix.
KINDS = ("in_place", "next", "sentinels", "masks", "middle")
# Families of published encoder-decoders -> how they were pretrained.
_PUBLISHED = {"t5": "sentinels", "bart": "masks"}
# Prefix, suffix and middle in the vocabularies of published decoders (StarCoder; Qwen2.5-Coder).
_INFILL = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
)
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


def way_of(record: dict, origin: dict, name: str) -> Way:
    """How a run fills, from its config.json and what its manifest knows of a published directory. Raises
    ConfigError for one that does not."""
    config, architecture = record["config"], record["model"]["architecture"]
    if task := config.get("task", {}).get("name") or origin.get("head", ""):
        raise ConfigError(
            f"{name} is finetuned for {task} and fills no masks; name the run that it was finetuned from"
        )
    if objective := objective_of(config):
        about, ways = objective.name, list(_ways(objective, architecture))
    else:
        about = origin.get("class", "a published model")
        kind = _PUBLISHED.get(origin.get("model_type", ""), "")
        kind = {"encoder": "in_place", "decoder": "middle"}.get(architecture, kind)
        ways = [Way(kind, about, whole=kind == "masks")] if kind else []
    if not ways:
        raise _fills_no_masks(name, about)
    return min(ways, key=lambda way: KINDS.index(way.kind))


def _fills_no_masks(name, about):
    return ConfigError(f"{name} was pretrained as {about}, which fills no masks; {_REMEDY}")


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
        if self.way.kind == "middle" and not _infill_tokens(loaded):
            raise _fills_no_masks(self.name, self.way.about)
        return loaded

    @functools.cached_property
    def template(self):
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
        example = "<extra_id_0>" if self.way.kind == "sentinels" else MASK
        other = (_SENTINEL if found or appended else _ANY_MARK).search("\n".join(parts))
        if other:
            raise ValueError(
                f"{place} has {other[0]}, but {self.name} ({self.way.about}) fills {example}; write "
                f"{example} in its place"
            )
        if not found and not appended:
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
        loaded, template = self.loaded, self.template
        before = mode_tokens(loaded.vocabulary, self.way.mode)
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
        pre, suf, mid = _infill_tokens(self.loaded)
        prefix, suffix = (ids.tolist() for ids in self.loaded.tokenizer.encode_batch(text.parts))
        row = [pre, *prefix, suf, *suffix, mid]
        if self.way.suffix_first:
            row = [pre, suf, *suffix, mid, *prefix]
        return self._checked(np.array([*self.template.prefix, *row], np.int32), text.place)

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
        self,
        texts: Sequence[Text],
        rows,
        config: FillConfig,
        seeds,
        max_new_tokens=0,
        batch_size=32,
    ) -> list:
        """A record of each text: {'text', 'fills': [{'text', 'filled', 'probability', 'log_prob'}, ...]},
        best first, and for a model that predicts in place 'masks', the likeliest tokens of each mask.

        Args:
          rows: of the texts, from `row`.
          seeds: of the rows.
          max_new_tokens: of a model that generates; 0: by the text.
          batch_size: rows that the model reads together, or sequences that it generates together.
        """
        with sharding.use_mesh(self.loaded.mesh):
            if self.is_in_place:
                return self._fill_in_place(texts, rows, config, seeds, batch_size)
            return infill(self, texts, rows, config, seeds, max_new_tokens, batch_size)

    def _fill_in_place(self, texts, rows, config, seeds, batch_size):
        loaded = self.loaded
        common = {**self._mask, "candidates": loaded.vocabulary.regular_token_ranges,
                  "mesh": loaded.mesh, "batch_size": batch_size}  # fmt: skip
        n = config.num_return_sequences
        tokens = top_tokens(loaded.model, loaded.params, rows, n, **common)
        filled = fill(loaded.model, loaded.params, rows, config, seeds=seeds, **common)
        records = []
        for text, row, masks, fills in zip(texts, rows, tokens, filled, strict=True):
            at = np.asarray(row) == loaded.vocabulary.mask
            found = [
                record_of(self._text_of(each.tokens), self._each(each.tokens[at]), each.score)
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
        template, length = self.template, len(row)
        return self.loaded.tokenizer.decode(
            row[len(template.prefix) : length - len(template.suffix)]
        )


def _infill_tokens(loaded) -> tuple[int, ...]:
    """The tokens before a prefix, a suffix and the middle between them; () where a tokenizer has none."""
    known = loaded.tokenizer.vocabulary()
    published = next((names for names in _INFILL if known.keys() >= {*names}), ())
    return loaded.vocabulary.infill or tuple(known[name] for name in published)

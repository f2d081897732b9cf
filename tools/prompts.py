"""Prompt text -> the tokens that a model reads before it generates, as the run was trained.

Between data/special_tokens.py and generation/; used by tools/generator.py. Text is never a special token.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.special_tokens import pair_templates, template_for
from generation import Prompt
from objectives import Objective
from objectives.causal_lm import CausalLM
from objectives.denoising import Denoising
from objectives.mixture import SampledObjective, mode_tokens
from objectives.prefix_lm import PrefixLM
from tasks.seq2seq import Seq2seq
from tasks.text_to_text import TextToText
from tools.loaded_run import objective_of
from training import config as config_lib
from training import run_directory
from training.config import ConfigError
from training.schema import FinetuneConfig


@dataclasses.dataclass(frozen=True)
class PromptReader:
    """How a run reads prompts.

    Attributes:
      describe: a few words for the log.
      read: texts -> the Prompt of each.
      continues: the output continues the text of the prompt: the blank between them is generated.
      eos_ids: tokens that end a generated text.
      masks: for a model that fills in [MASK]s after the prompt; None for one that generates from left to
        right.
      max_new_tokens: of the task that trained the run; 0: none did.
    """

    describe: str
    read: Callable[[list[str]], list[Prompt]]
    continues: bool
    eos_ids: tuple[int, ...]
    masks: "Masks | None" = None
    max_new_tokens: int = 0


class Masks(NamedTuple):
    """suffix: the tokens after the masks. is_next: a mask is predicted at the position before it."""

    suffix: tuple[int, ...]
    is_next: bool


def check_generates(record: dict, origin: dict, name: str, run: str) -> None:
    """Raises ConfigError for a run whose model generates no text; `record` is its config.json, `origin`
    what its manifest knows of a published directory."""
    architecture, task = record["model"]["architecture"], record["config"].get("task", {})
    if architecture == "embeddings":
        raise ConfigError(
            f"{name} is a run of word vectors, which generate no text; name a decoder or an encoder-decoder"
        )
    head = task.get("name") or origin.get("head", "")
    if head and head not in (Seq2seq.name, TextToText.name):
        raise ConfigError(
            f"{name} has the head of {head}, which generates no text; python -m tools.predict --run={run} "
            "predicts with it"
        )


def column_of(record: dict) -> str:
    """The column of the prompts in a file: by default the one with the texts of the task."""
    task = record["config"].get("task", {})
    return task.get("source_column") or task.get("text_column") or "prompt"


def published_origin(manifest: dict) -> dict:
    """What a manifest knows of the published directory that its run comes from; {} without one."""
    return manifest.get("huggingface") or manifest.get("published") or {}


def prompt_reader(loaded) -> PromptReader:
    """How the model of a tools.loaded_run.LoadedRun reads prompts: by the task that finetuned it, by the
    objective that pretrained it, or by the settings of a published directory."""
    config, special_ids = loaded.record["config"], loaded.tokenizer.special_ids()
    if loaded.config.architecture == "encoder":
        return _of_masks(loaded, "predicts masks", is_next=False)
    start = np.array(decoder_start(loaded), np.int32)
    eos_ids = published_settings(loaded).get("eos_token_id", special_ids["eos"])
    eos_ids = [eos_ids] if isinstance(eos_ids, int) else eos_ids
    if "task" in config:
        return _of_task(loaded, start[:1], special_ids["eos"])
    if objective := objective_of(config):
        return _of_objective(loaded, objective, start, (special_ids["eos"],))
    return _reader(loaded, start, tuple(eos_ids))


def published_settings(loaded) -> dict:
    """The settings of generation that a published directory has: generation_config.json, and without such
    a file the keys of config.json; {} for a run that was not imported."""
    origin = published_origin(run_directory.read_manifest(loaded.directory))
    kept = origin.get("generation") or origin.get("config") or {}
    return {key: value for key, value in kept.items() if value is not None}


def decoder_start(loaded) -> tuple[int, ...]:
    """The tokens that the decoder of an encoder-decoder starts with."""
    settings = published_settings(loaded)
    start = settings.get("decoder_start_token_id", loaded.vocabulary.start)
    forced = settings.get("forced_bos_token_id")
    return (start,) if forced is None else (start, forced)


def _reader(loaded, start, eos_ids, before=(), after=(), is_prefix=False, about="", **fields):
    """The reader of prompts between the tokens `before` (a mode) and `after` (a sentinel or a mask)."""
    tokenizer, architecture = loaded.tokenizer, loaded.config.architecture
    template = template_for(architecture, tokenizer.special_ids(), tokenizer.template)
    prefix, suffix, own = (*before, *template.prefix), after, {}
    if architecture == "encoder_decoder":
        suffix = (*after, *template.suffix)
        own = {"decoder_tokens": start}

    def read(texts):
        encoded = tokenizer.encode_batch(texts)
        for text, ids in zip(texts, encoded, strict=True):
            if not len(ids) and not (prefix and architecture == "decoder"):
                raise ValueError(
                    f"the prompt {text!r} is empty, and the model has no start token: give it some text"
                )
        return [
            Prompt(np.array([*prefix, *ids, *suffix], np.int32), prefix=is_prefix, **own)
            for ids in encoded
        ]

    return PromptReader(about or "published", read, True, eos_ids, **fields)


def _of_objective(loaded, objective, start, eos_ids):
    """The reader of a run of train.py."""
    objective, mode = _component_of(objective)
    architecture, vocabulary = loaded.config.architecture, loaded.vocabulary
    before = mode_tokens(vocabulary, mode)
    reader = {"before": before, "about": objective.name + f" [{mode}]" * bool(mode)}
    if isinstance(objective, Denoising) and objective.targets == "next":
        return _of_masks(loaded, objective.name, is_next=True)
    if isinstance(objective, Denoising):
        return _of_denoiser(loaded, objective, start, eos_ids, reader)
    is_prefix = isinstance(objective, PrefixLM) and architecture == "decoder"
    return _reader(loaded, start, eos_ids, is_prefix=is_prefix, **reader)


def _component_of(objective: Objective) -> tuple[Objective, str]:
    """(an objective, its mode); of a mixture, the component that prepares best for
    continuations."""
    if not isinstance(objective, SampledObjective):
        return objective, ""
    order = (PrefixLM, CausalLM, Denoising, Objective)

    def place(component):
        return next(n for n, kind in enumerate(order) if isinstance(component.objective, kind))

    found = min(objective.parsed, key=place)
    return found.objective, found.mode


def _of_masks(loaded, about, is_next):
    """Of a model that predicts tokens in place: it reads a whole document, whose end are masks."""
    tokenizer, architecture = loaded.tokenizer, loaded.config.architecture
    if loaded.vocabulary.mask < 0:
        raise ConfigError(
            f"{loaded.name} has a tokenizer without a mask token, and fills nothing in"
        )
    template = template_for(architecture, tokenizer.special_ids(), tokenizer.template, is_next)

    def read(texts):
        return [
            Prompt(np.array([*template.prefix, *ids], np.int32))
            for ids in tokenizer.encode_batch(texts)
        ]

    return PromptReader(about, read, True, (), Masks(template.suffix, is_next))


def _of_denoiser(loaded, objective, start, eos_ids, reader):
    """Of a denoiser: the text after the prompt is a span that was left out."""
    vocabulary, tokenizer, after = loaded.vocabulary, loaded.tokenizer, ()
    is_decoder = loaded.config.architecture == "decoder"
    if objective.inputs == "sentinel":  # the text of a span ends where the next one would start
        after, eos_ids = vocabulary.sentinels[:1], (*eos_ids, *vocabulary.sentinels[1:])
    elif objective.inputs in ("mask", "bert", "mask_span"):
        after = (vocabulary.mask,)
    whole = objective.targets == "full"  # the target repeats the prompt
    if is_decoder:  # it reads the end of its inputs before it generates
        reader |= {"after": (*after, vocabulary.eos), "is_prefix": True}
        found = _reader(loaded, start, eos_ids, **reader)
        return dataclasses.replace(found, continues=not whole)
    if not whole:
        return _reader(loaded, np.append(start, after), eos_ids, after=after, **reader)
    found, own = _reader(loaded, start, eos_ids, after=after, **reader), tokenizer.template
    prefix = own.prefix if own else ()

    def read(texts):
        encoded = zip(found.read(texts), tokenizer.encode_batch(texts), strict=True)
        return [
            dataclasses.replace(each, decoder_tokens=np.array([*start, *prefix, *ids], np.int32))
            for each, ids in encoded
        ]

    return dataclasses.replace(found, read=read)


def _of_task(loaded, start, eos):
    """The reader of a run of finetune.py: a prompt is a source, with the prompt of the task around it."""
    task = config_lib.resolve(FinetuneConfig, {**loaded.record["config"], "mesh": {}}).task
    pairs, tokenizer, architecture = task, loaded.tokenizer, loaded.config.architecture
    if isinstance(task, TextToText):
        pairs = task.pairs
        if len(task.placeholders) > 1:
            raise ConfigError(
                f"{loaded.name} reads {' and '.join(task.placeholders)}, and a prompt is one text; python -m "
                "tools.predict reads several columns"
            )
    template, _ = pair_templates(architecture, tokenizer.special_ids(), tokenizer.template)
    own = {"decoder_tokens": start} if architecture == "encoder_decoder" else {}
    is_prefix = architecture == "decoder" and task.attention == "prefix"

    def read(texts):
        if isinstance(task, TextToText):
            texts = [task.render({task.placeholders[0]: text})[0] for text in texts]
        sources, _ = pairs.encode_sources(texts, tokenizer, template)
        return [Prompt(ids, prefix=is_prefix, **own) for ids in sources]

    about = f"{task.name}, {pairs.max_target_len} tokens at most"
    return PromptReader(about, read, False, (eos,), None, pairs.max_target_len)

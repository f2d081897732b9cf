"""ELECTRA's discriminator and generator: two Hugging Face directories, one replaced_token_detection run.
The discriminator is in DIR and its generator in DIR/generator; one run shares their embeddings.
Called by convert.py, between reading and writing.
"""

import dataclasses
import pathlib

import numpy as np

from huggingface.family import config_differences
from huggingface.run_contents import RunContents
from models.config import resolve_defaults
from objectives.replaced_token_detection import ReplacedTokenDetection
from training.config import ConfigError

GENERATOR = "generator"  # the subdirectory, and the prefix of the generator's parameters
DISCRIMINATOR_CLASS, GENERATOR_CLASS = "ElectraForPreTraining", "ElectraForMaskedLM"


def has_generator(source: pathlib.Path) -> bool:
    """Whether a Hugging Face directory contains a generator."""
    return (source / GENERATOR / "config.json").is_file()


def join(discriminator: RunContents, generator: RunContents) -> RunContents:
    """One run of the two. Raises ConfigError unless replaced_token_detection can train it: for other
    classes, different tokenizers or embeddings, or a generator that no generator_size gives."""
    for part, name in ((discriminator, DISCRIMINATOR_CLASS), (generator, GENERATOR_CLASS)):
        if part.origin["class"] != name:
            raise ConfigError(
                f"{part.name} has class {part.origin['class']}; expected {name}, as one of ELECTRA's pair"
            )
    size = _generator_size(discriminator, generator)
    _check_shared(discriminator, generator)
    own = {path: array for path, array in generator.arrays.items() if not _is_shared(path)}
    return dataclasses.replace(
        discriminator,
        arrays=discriminator.arrays | {f"{GENERATOR}/{path}": array for path, array in own.items()},
        origin=discriminator.origin | {GENERATOR: generator.origin | {"generator_size": size}},
    )


def split(contents: RunContents) -> tuple[RunContents, RunContents]:
    """(discriminator, generator) of a run that has both."""
    origin, prefix = dict(contents.origin), f"{GENERATOR}/"
    generator_origin = dict(origin.pop(GENERATOR, {}))
    size = generator_origin.pop("generator_size", None)
    size = size or contents.config["objective"]["generator_size"]
    main, generator = {}, {}
    for path, array in contents.arrays.items():
        if path.startswith(prefix) or _is_shared(path):
            generator[path.removeprefix(prefix)] = array
        if not path.startswith(prefix):
            main[path] = array
    model = ReplacedTokenDetection(generator_size=size).generator_config(contents.model_config)
    return (
        dataclasses.replace(contents, arrays=main, origin=origin),
        dataclasses.replace(
            contents, arrays=generator, origin=generator_origin, model_config=model
        ),
    )


def _is_shared(path):
    return path.startswith("embed/")


def _generator_size(discriminator, generator):
    """The generator_size that gives this generator. Raises ConfigError if none does."""
    size = generator.model_config.emb_dim / discriminator.model_config.emb_dim
    objective = ReplacedTokenDetection(generator_size=size)
    expected = resolve_defaults(objective.generator_config(discriminator.model_config))
    problems = config_differences(resolve_defaults(generator.model_config), expected)
    if problems:
        raise ConfigError(
            f"the generator in {generator.name} does not fit its discriminator: {', '.join(problems)}; "
            "convert each into a run of its own"
        )
    return size


def _check_shared(discriminator, generator):
    """Raises ConfigError unless the two have the same tokenizer and embeddings."""
    different = [
        path
        for path, array in discriminator.arrays.items()
        if _is_shared(path)
        and not (
            path in generator.arrays and np.array_equal(array.read(), generator.arrays[path].read())
        )
    ]
    if discriminator.tokenizer.fingerprint != generator.tokenizer.fingerprint:
        different.insert(0, "tokenizer")
    if different:
        raise ConfigError(
            f"{discriminator.name} and its {GENERATOR} differ in {', '.join(different)}, which one run "
            "shares; convert each into a run of its own"
        )

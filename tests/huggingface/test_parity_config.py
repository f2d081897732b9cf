"""Every key of every family's config class, its aliases and its defaults: read as transformers reads them,
or refused by name; and written back. The cases are generated, see config_sweep.py.
"""

import collections

import config_sweep
import parity
import pytest

from huggingface.config_mapping import GENERAL_KEYS, REFUSED_KEYS, TrackedConfig
from huggingface.families import FAMILIES

_, transformers = parity.peers()

pytestmark = pytest.mark.parity

# What a directory must say: transformers' default is a model that it or we lack.
REQUIRED = {"esm": {"position_embedding_type": "rotary", "vocab_size": 33}}
TOTALS = collections.Counter()


def config_class(model_type):
    return transformers.models.auto.configuration_auto.CONFIG_MAPPING[model_type]


@pytest.mark.parametrize("model_type", config_sweep.BASES)
def test_no_key_is_silently_different(model_type, tmp_path, capsys):
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    directory = config_sweep.Directory.make(tmp_path / "there", model_type)
    counts, wrong = collections.Counter(), []
    for key, config in directory.cases():
        outcome = directory.outcome(key, config)
        if outcome.startswith("transformers refuses"):
            outcome = "refused by transformers alone"
        elif outcome not in ("equal", "refused"):
            wrong.append(f"{key}={config.get(key)!r}: {outcome}")
        counts[outcome if outcome[0] in "er" and len(outcome) < 30 else "wrong"] += 1
    TOTALS.update(counts)
    with capsys.disabled():
        print(f"\n{model_type}: {sum(counts.values())} cases {dict(counts)}; all {dict(TOTALS)}")
    assert wrong == []
    assert counts["equal"] > 50 and counts["refused"] > 20


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_is_swept(model_type):
    assert model_type in config_sweep.BASES


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_key_of_the_config_class_is_read_or_listed_with_a_reason(model_type):
    config = config_class(model_type)(**REQUIRED.get(model_type, {})).to_dict()
    family = FAMILIES[model_type]
    tracked = TrackedConfig(config)
    for key in family.config_keys:
        key.read(tracked)
    listed = {*GENERAL_KEYS, *REFUSED_KEYS, *family.unused, family.head_dropout_key}
    listed |= {family.pooling_key[0], "is_encoder_decoder"}
    assert [name for name in tracked.unread() if name not in listed] == []
    assert family.aliases == config_class(model_type).attribute_map


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_absent_key_has_the_default_of_the_config_class(model_type):
    family = FAMILIES[model_type]
    needed = REQUIRED.get(model_type, {})
    written, problems = family.hf_config(family.model_config({"model_type": model_type, **needed}))
    assert problems == []
    expected = config_class(model_type)().to_dict()
    equal = {"n_inner": 4 * 768, "sliding_window": None, "max_window_layers": None}
    differing = {
        name: (written[name], value)
        for name, value in expected.items()
        if name in written
        and name not in needed
        and written[name] != value
        and written[name] != equal.get(name, written)
    }
    assert {n: v for n, v in differing.items() if n not in ("max_window_layers",)} == {}

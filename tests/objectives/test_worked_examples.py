"""The worked examples in docstrings and in docs/objectives.md are read from there and compared with the
code. The example of an objective that draws at random must be one of its draws.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from objectives.base import ObjectiveSpec
from objectives.batch import Batch
from objectives.causal_lm import CausalLM
from objectives.denoising import Denoising
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.prefix_lm import PrefixLM
from objectives.replaced_token_detection import ReplacedTokenDetection
from objectives.sentence_pairs import SentencePairs
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=60, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 19)),
    regular_token_ranges=((19, 60),),
    word_continuation=bytes(3 if token % 2 else 2 for token in range(60)),
)  # fmt: skip
PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
SPANS = "span_corruption:noise_density=0.4,mean_noise_span_length=1.5,max_target_eos=2"
EXAMPLES = [
    ("masked_lm:noise_density=0.3333333333333333", "encoder", 9, Batch.__doc__),
    ("causal_lm", "decoder", 8, CausalLM.__doc__),
    ("prefix_lm", "encoder_decoder", 8, PrefixLM.__doc__),
    ("fill_in_the_middle", "decoder", 11, FillInTheMiddle.__doc__),
    (SPANS, "encoder_decoder", 8, Denoising.__doc__),
    *(
        (name, architecture, int(length), example)
        for name, architecture, length, example in re.findall(
            r"^    (\S+) for an? (\w+) of (\d+)\n((?:    [a-z._]+ +\[.*\]\n)+)", PAGE, re.MULTILINE
        )
    ),
    ("next_sentence:noise_density=0.25", "encoder", 8, SentencePairs.__doc__),
    ("replaced_token_detection:noise_density=0.2", "encoder", 6, ReplacedTokenDetection.__doc__),
]


def read_example(text):
    """{'row': [...], 'inputs.tokens': [...], ...} from lines `name [ 1, 2, 3 ]`."""
    lines = re.findall(r"^ +([a-z._]+) +\[([-\d, ]+)\]", text, re.MULTILINE)
    return {name: [int(number) for number in numbers.split(",")] for name, numbers in lines}


def field(batch, name):
    for part in name.split("."):
        batch = getattr(batch, part)
    return np.asarray(batch)


def test_the_page_has_examples():
    assert len(EXAMPLES) == 7 + len(re.findall(r"^    row +\[", PAGE, re.MULTILINE)) >= 11


@pytest.mark.parametrize("name, architecture, length, text", EXAMPLES, ids=lambda x: str(x)[:40])
def test_a_worked_example_is_one_of_the_draws(name, architecture, length, text):
    example = read_example(text)
    row = jnp.asarray(example.pop("row"), jnp.int32)
    assert {"inputs.tokens", "inputs.segment_ids", "targets", "loss_weights"} <= example.keys()
    objective = objectives.parse(name)
    spec = ObjectiveSpec(architecture, VOCABULARY, length)
    assert objective.lengths(spec).raw == len(row)
    corrupt = jax.jit(jax.vmap(lambda rng: objective.corrupt(spec, rng, row)))
    same = np.zeros(1, bool)
    for seed in range(10):
        draws = corrupt(jax.random.split(jax.random.key(seed), 2000))
        same = np.ones(2000, bool)
        for part, expected in example.items():
            drawn = field(draws, part).reshape(2000, -1)
            assert drawn.shape[1:] == (len(expected),), part
            same &= (drawn == expected).all(1)
        if same.any():
            break
    assert same.any()
    if name == "causal_lm":
        assert same.all()


def test_the_new_objective_of_the_page_runs_unchanged(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert 20 < len(list(filter(None, code.splitlines()))) <= 40
    namespace = {"__name__": "objectives.backwards"}
    exec(compile(code, "docs/objectives.md", "exec"), namespace)
    monkeypatch.setitem(objectives.OBJECTIVES, "backwards", namespace["Backwards"])
    objective = objectives.parse("backwards:share=0.4")
    row = jnp.asarray([21, 22, 23, 4, 31, 32, 33, 34, 35, 4], jnp.int32)
    ends = {(*[23, 22][:a], *[35, 34, 33, 32][:b]) for a in range(3) for b in range(5)}
    for architecture in objective.architectures:
        spec = ObjectiveSpec(architecture, VOCABULARY, 20)
        objectives.check(objective, architecture)
        corrupt = jax.jit(jax.vmap(functools.partial(objective.corrupt, spec), (0, None)))
        with jax.numpy_dtype_promotion("strict"):
            batches = corrupt(jax.random.split(jax.random.key(0), 200), row)
        batches = jax.tree.map(np.asarray, batches)
        batches = [jax.tree.map(lambda x, i=i: x[i], batches) for i in range(200)]
        targets = {tuple(batch.targets[batch.loss_weights > 0].tolist()) for batch in batches}
        assert targets == ends
        for batch in batches:
            assert objective.reconstruct(spec, batch).tolist() == row.tolist()
    assert "backwards" in objectives.names_by_architecture()["decoder"]

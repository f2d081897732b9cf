"""The encoders that came after BERT, there and here, through the files: RoBERTa, ELECTRA, DistilBERT,
ModernBERT; states, logits, gradients, and heads.
"""

import parity
import pytest

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": parity.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
DISTILLED = {
    "vocab_size": parity.VOCABULARY,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 16,
}
MODERN = {
    **SHAPE,
    "num_hidden_layers": 4,
    "local_attention": 4,  # two on either side of eleven
    **{f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos", "cls", "sep"))},
}
CASES = {
    "roberta": ("Roberta", {**SHAPE, "type_vocab_size": 1}),
    "electra": ("Electra", {**SHAPE, "embedding_size": 24}),
    "electra, one width": ("Electra", {**SHAPE, "embedding_size": 32}),
    "distilbert": ("DistilBert", DISTILLED),
    "distilbert, relu": ("DistilBert", {**DISTILLED, "activation": "relu"}),
    "modernbert": ("ModernBert", MODERN),
    "modernbert, biases": (
        "ModernBert",
        {**MODERN, "global_attn_every_n_layers": 2, "decoder_bias": False}
        | {f"{part}_bias": True for part in ("norm", "attention", "mlp", "classifier")},
    ),
    "modernbert, everything seen": ("ModernBert", {**MODERN, "global_attn_every_n_layers": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_masked_lm(case, tmp_path):
    name, fields = CASES[case]
    config = getattr(transformers, f"{name}Config")(**fields)
    parity.converse(
        parity.randomised(getattr(transformers, f"{name}ForMaskedLM")(config)), tmp_path
    )


def test_the_discriminator_of_electra(tmp_path):
    config = transformers.ElectraConfig(**SHAPE, embedding_size=24)
    peer = parity.randomised(transformers.ElectraForPreTraining(config))
    parity.through(peer, tmp_path)
    for network, run in ((peer, "run"), (type(peer).from_pretrained(tmp_path / "back"), "other")):
        ours = parity.Ours.of(tmp_path / run)
        hidden = ours.hidden(*ours.sequences(parity.TOKENS, parity.PADDED))
        out = network.eval()(
            input_ids=torch.from_numpy(parity.TOKENS).long(),
            attention_mask=torch.from_numpy(parity.PADDED).long(),
            output_hidden_states=True,
        )
        parity.close(hidden, out.hidden_states[-1], 1e-4, parity.PADDED)
        parity.close(ours.logits(hidden), out.logits, 1e-4, parity.PADDED)

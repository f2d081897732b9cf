"""RoBERTa, ELECTRA, ESM, DistilBERT and ModernBERT of transformers and ours, through the files: states,
logits, gradients, heads.
"""

import parity
import pytest

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": parity.VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
DISTILBERT = {
    "vocab_size": parity.VOCAB_SIZE,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 16,
}
ESM = {"position_embedding_type": "rotary", "pad_token_id": 0, "mask_token_id": 1}
MODERNBERT = {
    **SHAPE,
    "num_hidden_layers": 4,
    "local_attention": 4,  # two of eleven on either side
    **{f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos", "cls", "sep"))},
}
CASES = {
    "roberta": ("Roberta", {**SHAPE, "type_vocab_size": 1}),
    "electra": ("Electra", {**SHAPE, "embedding_size": 24}),
    "electra, embedding size = hidden size": ("Electra", {**SHAPE, "embedding_size": 32}),
    "esm": ("Esm", {**SHAPE, **ESM}),
    "esm, embedding norm": ("Esm", {**SHAPE, **ESM, "emb_layer_norm_before": True}),
    "distilbert": ("DistilBert", DISTILBERT),
    "distilbert, relu": ("DistilBert", {**DISTILBERT, "activation": "relu"}),
    "modernbert": ("ModernBert", MODERNBERT),
    "modernbert, biases": (
        "ModernBert",
        {**MODERNBERT, "global_attn_every_n_layers": 2, "decoder_bias": False}
        | {f"{part}_bias": True for part in ("norm", "attention", "mlp", "classifier")},
    ),
    "modernbert, global attention alone": (
        "ModernBert",
        {**MODERNBERT, "global_attn_every_n_layers": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_masked_lm(case, tmp_path):
    name, fields = CASES[case]
    config = getattr(transformers, f"{name}Config")(**fields)
    peer = getattr(transformers, f"{name}ForMaskedLM")(config)
    parity.check_round_trip(parity.randomize(peer), tmp_path)


def test_the_discriminator_of_electra(tmp_path):
    config = transformers.ElectraConfig(**SHAPE, embedding_size=24)
    peer = parity.randomize(transformers.ElectraForPreTraining(config))
    other, run, back = parity.convert_both_ways(peer, tmp_path)
    for model, folder in ((peer, run), (type(peer).from_pretrained(back), other)):
        native = parity.NativeModel.load(folder)
        hidden = native.hidden(*native.inputs(parity.TOKENS, parity.PADDED_MASK))
        out = model.eval()(
            input_ids=torch.from_numpy(parity.TOKENS).long(),
            attention_mask=torch.from_numpy(parity.PADDED_MASK).long(),
            output_hidden_states=True,
        )
        parity.assert_close(hidden, out.hidden_states[-1], 1e-4, parity.PADDED_MASK)
        parity.assert_close(native.logits(hidden), out.logits, 1e-4, parity.PADDED_MASK)

"""Helpers of the parity tests: a model of transformers and ours with the same parameters.

`check_round_trip` converts a model from Hugging Face files and back and compares both directions; the
files tests/huggingface/test_parity_*.py apply it to one family each.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import models
from data import tokenizer as data_tokenizer
from huggingface import convert
from huggingface.families import FAMILIES
from models.config import ModelConfig
from models.layers import lm_logits
from objectives.heads import DiscriminatorHead
from objectives.loss import chunked_cross_entropy
from tasks.base import AUTO_POOLING
from tasks.classification import Classification, LoadedClassification
from tasks.encoding import Encoded
from training import checkpoint, init_from, param_rules, run_directory

RANDOM = np.random.default_rng(0)
VOCAB_SIZE, ROWS, LENGTH, TARGET_LENGTH = 90, 3, 11, 6
# Fields of the config class of a tiny encoder, and of BART's.
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 16,
}

TOKENS = RANDOM.integers(5, VOCAB_SIZE, (ROWS, LENGTH)).astype(np.int32)
LABELS = RANDOM.integers(5, VOCAB_SIZE, (ROWS, LENGTH)).astype(np.int32)  # of an encoder
TARGETS = RANDOM.integers(5, VOCAB_SIZE, (ROWS, TARGET_LENGTH)).astype(np.int32)  # of a decoder
FULL_MASK = np.ones_like(TOKENS)
PADDED_MASK = (np.arange(LENGTH) < np.array([[LENGTH], [7], [2]])).astype(np.int32)
NEW_TOKENS = 6  # generated after a prompt


def peers():
    """(torch, transformers); without them the calling module is skipped."""
    reason = "needs PyTorch and transformers: pip install -e .[parity]"
    return [pytest.importorskip(name, reason=reason) for name in ("torch", "transformers")]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hidden(config, adapter, params, inputs):
    return models.build(config, adapter).apply({"params": params}, *inputs)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, hidden):
    variables, model = {"params": params}, models.build(config)
    features = model.apply(variables, hidden, method="lm_features")
    embedding, bias = model.apply(variables, method="output_embedding")
    logits = lm_logits(features, embedding, bias, config.final_logit_softcap)
    return logits[..., : config.vocab_size]


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_gradients(config, params, inputs, targets, weights):
    model = models.build(config)

    def loss(params):
        variables = {"params": params}
        hidden = model.apply(variables, *inputs)
        features = model.apply(variables, hidden, method="lm_features")
        embedding, bias = model.apply(variables, method="output_embedding")
        total, weight, _ = chunked_cross_entropy(
            features, embedding, bias, targets, weights, config.vocab_size,
            softcap=config.final_logit_softcap,
        )  # fmt: skip
        return total / weight

    return jax.value_and_grad(loss)(params)


@dataclasses.dataclass
class NativeModel:
    """The model and the parameters of a run."""

    config: ModelConfig
    params: dict
    start: int  # first token of an encoder-decoder's decoder
    adapter: models.Adapter = models.Adapter()

    @classmethod
    def load(cls, run):
        config = ModelConfig(**run_directory.read_config(run)["model"])
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for path, leaf in checkpoint.params_metadata(run, 0).items()
        }
        target = param_rules.unflatten_params(target)
        params = checkpoint.read_params(f"{run}/checkpoints", 0, target)
        start = data_tokenizer.load(f"{run}/tokenizer.json").special_ids()["start"]
        return cls(config, params, start, init_from.read_adapter(run))

    @property
    def is_encoder_decoder(self):
        return self.config.architecture == "encoder_decoder"

    def inputs(self, tokens, mask, targets=None, token_type_ids=None):
        """The arguments of the model: ModelInputs, and with targets those of the decoder."""
        attention = "causal" if self.config.architecture == "decoder" else "bidirectional"
        types = None if token_type_ids is None else jnp.asarray(token_type_ids)
        tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
        inputs = models.make_inputs(tokens, mask, attention, token_type_ids=types)
        if targets is None:
            return (inputs,)
        shifted = np.concatenate([np.full((len(targets), 1), self.start), targets[:, :-1]], axis=1)
        shifted = jnp.asarray(shifted.astype(np.int32))
        return inputs, models.make_inputs(shifted, jnp.ones_like(shifted), "causal")

    def hidden(self, *inputs):
        return _hidden(self.config, self.adapter, self.params, inputs)

    def logits(self, hidden):
        """float32[..., vocab_size]; float32[...] of a discriminator."""
        if "discriminator" in self.params.get("heads", {}):
            head = {"params": self.params["heads"]["discriminator"]}
            return DiscriminatorHead(self.config).apply(head, hidden)
        return _logits(self.config, self.params, hidden)

    def class_logits(self, tokens, lengths, num_classes, options, pad=0, start=0):
        """float32[B, num_classes] of a classifier with these options of the task."""
        task = Classification(**options)
        architecture, count = self.config.architecture, len(tokens)
        encoded = Encoded(tokens, lengths, np.zeros_like(tokens), np.full(count, -1, np.int32), 0)
        loaded = LoadedClassification(
            head=task.head_module(num_classes, **dataclasses.asdict(task)),
            pooling=AUTO_POOLING[architecture] if task.pooling == "auto" else task.pooling,
            decoder_input=task.decoder_input, model_config=self.config, pad=pad, start=start,
            label_smoothing=0.0, class_weights=(),
            batch_size=count, task=task, tokenizer=None, label_names=(), texts={}, encoded={"test": encoded},
            examples=np.arange(0), fingerprint="", seed=0, eval_batch_size=count, process_index=0,
            process_count=1, grad_accum_steps=1, batch_divisor=1,
        )  # fmt: skip
        (batch,) = loaded.eval_inputs("test")
        batch = jax.tree.map(jnp.asarray, batch)
        return loaded.outputs(models.build(self.config, self.adapter), self.params, batch)

    def loss_and_gradients(self, targets, weights, *inputs):
        """(mean cross-entropy, its gradients as a tree)."""
        targets, weights = jnp.asarray(targets), jnp.asarray(weights, jnp.float32)
        return _loss_and_gradients(self.config, self.params, inputs, targets, weights)

    def generate(self, prompt):
        """Prompts int32[B,T] -> their greedy continuations int32[B,NEW_TOKENS], without a cache."""
        row = prompt
        if self.is_encoder_decoder:
            row = np.full((len(prompt), 1), self.start, np.int32)
        length = row.shape[1]
        row = np.concatenate([row, np.zeros((len(prompt), NEW_TOKENS), np.int32)], axis=1)
        best = jax.jit(lambda *inputs: self.logits(self.hidden(*inputs)).argmax(-1))
        encoder = self.inputs(prompt, np.ones_like(prompt)) if self.is_encoder_decoder else ()
        for place in range(length, length + NEW_TOKENS):
            inputs = models.make_inputs(jnp.asarray(row), jnp.ones_like(row), "causal")
            row[:, place] = np.asarray(best(*encoder, inputs))[:, place - 1]
        return row[:, length:]


# {name: special token} of two kinds of published tokenizers, in the order of their ids.
BRACKETS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "eos": "[EOS]"}
TAGS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>", "bos": "<s>",
        "eos": "</s>"}  # fmt: skip


def write_tokenizer(directory):
    """Writes a word tokenizer to a Hugging Face directory. It has fewer tokens than the models here,
    and the special tokens of its model_type."""
    model_type = json.loads((directory / "config.json").read_text())["model_type"]
    special_tokens = TAGS if model_type in ("roberta", "bart", "xlm-roberta") else BRACKETS
    specials = list(dict.fromkeys(special_tokens.values()))
    words = [*specials, *(f"w{i}" for i in range(len(specials), VOCAB_SIZE - 2))]
    vocabulary = {word: number for number, word in enumerate(words)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token=special_tokens["unk"])
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(specials)
    inner.save(str(directory / "tokenizer.json"))
    names = {f"{name}_token": token for name, token in special_tokens.items()}
    (directory / "special_tokens_map.json").write_text(json.dumps(names))


def randomize(peer, scale=0.3, seed=0):
    """Initializes the model from the seed and adds noise to every parameter, norms and biases included."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peer.load_state_dict(type(peer)(peer.config).state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)
    return peer.eval()


def write_perturbed(run, target):
    """Writes a copy of a run with other parameters."""
    flat = {
        path: np.asarray(leaf) + RANDOM.normal(0, 0.1, leaf.shape).astype(np.float32)
        for path, leaf in param_rules.flatten_params(NativeModel.load(run).params).items()
    }
    target.mkdir()
    checkpoint.write_params(target, 0, param_rules.unflatten_params(flat))
    for file in run.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())


def assert_close(native, hf, tolerance, where=None):
    """Within `tolerance` of the largest entry of `hf`, at positions of the mask `where`."""
    native, hf = np.asarray(native), hf.detach().numpy()
    if where is not None:
        native, hf = native[where > 0], hf[where > 0]
    np.testing.assert_allclose(native, hf, rtol=0, atol=tolerance * np.abs(hf).max())


def assert_equal_models(peer, native, mask, token_type_ids=None):
    """Hidden states, logits, loss and gradients of two models with an LM head."""
    import torch

    def long(array):
        return torch.from_numpy(np.asarray(array)).long()

    decoder_only = native.config.architecture == "decoder"
    arguments = {"input_ids": long(TOKENS), "attention_mask": long(mask)}
    if token_type_ids is not None:
        arguments["token_type_ids"] = long(token_type_ids)
    labels, where, targets = LABELS, mask, None
    if native.is_encoder_decoder:
        labels, where, targets = TARGETS, np.ones_like(TARGETS), TARGETS
    elif decoder_only:
        labels = TOKENS
    arguments["labels"] = long(np.where(where > 0, labels, -100))
    out = peer(**arguments, output_hidden_states=True)
    peer.zero_grad()
    out.loss.backward()
    inputs = native.inputs(TOKENS, mask, targets, token_type_ids)
    hidden = native.hidden(*inputs)
    states = out.decoder_hidden_states if native.is_encoder_decoder else out.hidden_states
    assert_close(hidden, states[-1], 1e-4, where)
    assert_close(native.logits(hidden), out.logits, 1e-4, where)
    if decoder_only:  # the last position has no target
        labels = np.roll(labels, -1, axis=1)
        where = np.roll(where, -1, axis=1) * (np.arange(LENGTH) < LENGTH - 1)
    loss, gradients = native.loss_and_gradients(labels, where, *inputs)
    np.testing.assert_allclose(loss, out.loss.item(), rtol=1e-5)
    assert_equal_gradients(peer, native.config, param_rules.flatten_params(gradients))


def assert_equal_gradients(peer, config, gradients):
    """Every parameter's gradient, {path: array}, against the one that PyTorch computed."""
    family = FAMILIES[peer.config.model_type].for_class(type(peer).__name__)
    hf = dict(peer.named_parameters())
    params = family.resolve(config, {path: leaf.shape for path, leaf in gradients.items()})
    largest = max(float(p.grad.abs().max()) for p in hf.values() if p.grad is not None)
    num_compared = 0
    for param in params:
        if param.hf not in hf:  # BART's bias on the logits is a buffer there
            continue
        expected = hf[param.hf].grad
        arrays = [np.asarray(gradients[path]) for path in param.native]
        native = param.transform.to_hf(arrays, config.vocab_size)
        if expected is None or float(expected.abs().max()) < 1e-6 * largest:
            assert np.abs(native).max() < 1e-5 * largest, param.hf  # a key's bias, an unused head
            continue
        assert_close(native, expected, 1e-3)
        num_compared += 1
    assert num_compared > len(params) * 0.8


def convert_both_ways(peer, tmp_path):
    """Converts `peer` to a run, perturbs the run, converts that one to Hugging Face files.

    Returns the directories (perturbed run, run, Hugging Face files of the perturbed run).
    """
    source, run = tmp_path / "source", tmp_path / "run"
    peer.save_pretrained(source)
    write_tokenizer(source)
    convert.from_hf(str(source), str(run))
    other, back = tmp_path / "other", tmp_path / "back"
    write_perturbed(run, other)
    convert.to_hf(str(other), str(back))
    return other, run, back


def check_round_trip(peer, tmp_path, token_type_ids=None, generate=False):
    """Compares `peer` with the run made of it, and the perturbed run with the files made of it."""
    import torch

    other, run, back = convert_both_ways(peer, tmp_path)
    again, problems = type(peer).from_pretrained(
        back, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(problems.values()), problems
    for model, folder in ((peer, run), (again.eval(), other)):
        native = NativeModel.load(folder)
        for mask in (FULL_MASK, PADDED_MASK):
            assert_equal_models(model, native, mask, token_type_ids)
        if generate:
            prompt = TOKENS[:, :5]
            model.generation_config.eos_token_id = None
            out = model.generate(
                torch.from_numpy(prompt).long(), max_new_tokens=NEW_TOKENS, do_sample=False,
                use_cache=False, attention_mask=torch.ones(prompt.shape, dtype=torch.long),
            ).numpy()  # fmt: skip
            np.testing.assert_array_equal(native.generate(prompt), out[:, -NEW_TOKENS:])

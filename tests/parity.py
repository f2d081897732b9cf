"""A network of transformers and one of ours with the same parameters: what has to be equal.

`converse` takes a network there through the real files into ours and back; every tests/huggingface/
test_parity_*.py is that function with other networks.
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
from data.tokenizer import load as loaded
from huggingface import convert
from huggingface.families import FAMILIES
from models.config import ModelConfig
from objectives.heads import DiscriminatorHead
from objectives.loss import chunked_cross_entropy
from training import checkpoint, rules, run_directory

RANDOM = np.random.default_rng(0)
VOCABULARY, ROWS, LENGTH, REPLY = 90, 3, 11, 6
TOKENS = RANDOM.integers(5, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
LABELS = RANDOM.integers(5, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
REPLIES = RANDOM.integers(5, VOCABULARY, (ROWS, REPLY)).astype(np.int32)
WHOLE = np.ones_like(TOKENS)
PADDED = (np.arange(LENGTH) < np.array([[LENGTH], [7], [2]])).astype(np.int32)
NEW = 6  # pieces of a continuation; with a prompt of 5, a row


def peers():
    """(torch, transformers), or the module that asks for them is skipped with the reason."""
    reason = "needs PyTorch and transformers: pip install -e .[parity]"
    return [pytest.importorskip(name, reason=reason) for name in ("torch", "transformers")]


@functools.partial(jax.jit, static_argnums=0)
def hidden(config, params, sequences):
    return models.build(config).apply({"params": params}, *sequences)


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, states):
    variables, model = {"params": params}, models.build(config)
    features = model.apply(variables, states, method="readout")
    table, bias = model.apply(variables, method="unembedding")
    scores = jnp.einsum("BTE,VE->BTV", features, table)
    scores = scores if bias is None else scores + bias[None, None]
    return scores[..., : config.vocab_size]


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(config, params, sequences, targets, weights):
    model = models.build(config)

    def loss(params):
        variables = {"params": params}
        features = model.apply(variables, model.apply(variables, *sequences), method="readout")
        table, bias = model.apply(variables, method="unembedding")
        total, weight, _ = chunked_cross_entropy(
            features, table, bias, targets, weights, config.vocab_size
        )
        return total / weight

    return jax.value_and_grad(loss)(params)


@dataclasses.dataclass
class Ours:
    """A run: its network and its parameters."""

    config: ModelConfig
    params: dict
    start: int  # of a decoder beside an encoder

    @classmethod
    def of(cls, run):
        config = ModelConfig(**run_directory.read_config(run)["model"])
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
            for path, leaf in checkpoint.params_metadata(run, 0).items()
        }
        params = checkpoint.read_params(f"{run}/checkpoints", 0, rules.merge(target, {}))
        start = loaded(f"{run}/tokenizer.json").special_ids()["start"]
        return cls(config, params, start)

    def sequences(self, tokens, mask, replies=None, types=None):
        """What the network reads."""
        causal = "causal" if self.config.architecture == "decoder" else "all"
        types = None if types is None else jnp.asarray(types)
        read = models.sequence_of(jnp.asarray(tokens), jnp.asarray(mask), causal, types=types)
        if replies is None:
            return (read,)
        shifted = np.concatenate([np.full((len(replies), 1), self.start), replies[:, :-1]], axis=1)
        shifted = jnp.asarray(shifted.astype(np.int32))
        return read, models.sequence_of(shifted, jnp.ones_like(shifted), "causal")

    def hidden(self, *sequences):
        return hidden(self.config, self.params, sequences)

    def logits(self, states):
        """float32[..., vocab_size]; [...] of a discriminator."""
        if "discriminator" in self.params.get("heads", {}):
            head = {"params": self.params["heads"]["discriminator"]}
            return DiscriminatorHead(self.config).apply(head, states)
        return logits(self.config, self.params, states)

    def loss_and_gradients(self, targets, weights, *sequences):
        """(mean cross entropy, gradients as a tree)."""
        given = jnp.asarray(targets), jnp.asarray(weights, jnp.float32)
        return loss_and_gradients(self.config, self.params, sequences, *given)

    def greedy(self, prompt, new=NEW):
        """Prompts int[B,T] -> their continuations int[B,new], without a cache."""
        both = self.config.architecture == "encoder_decoder"
        begun = np.full((len(prompt), 1), self.start, np.int32) if both else prompt
        length = begun.shape[1]
        row = np.concatenate([begun, np.zeros((len(prompt), new), np.int32)], axis=1)
        step = jax.jit(lambda *sequences: self.logits(self.hidden(*sequences)).argmax(-1))
        for place in range(length, length + new):
            read = models.sequence_of(jnp.asarray(row), jnp.ones_like(row), "causal")
            source = self.sequences(prompt, np.ones_like(prompt)) if both else ()
            row[:, place] = np.asarray(step(*source, read))[:, place - 1]
        return row[:, length:]


# Role -> special token, in the order of their numbers.
ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "eos": "[EOS]"}
MARKED = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
MARKED |= {"bos": "<s>", "eos": "</s>"}


def tokenizer(directory):
    """A tokenizer of words, smaller than the vocabulary of the networks here, with special tokens as
    published ones of that kind have them."""
    kind = json.loads((directory / "config.json").read_text())["model_type"]
    roles = MARKED if kind in ("roberta", "bart") else ROLES
    specials = list(dict.fromkeys(roles.values()))
    pieces = [*specials, *(f"w{i}" for i in range(len(specials), VOCABULARY - 2))]
    words = {piece: number for number, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=roles["unk"]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(specials)
    inner.save(str(directory / "tokenizer.json"))
    named = {f"{role}_token": token for role, token in roles.items()}
    (directory / "special_tokens_map.json").write_text(json.dumps(named))


def randomised(peer, scale=0.3):
    """Every parameter, norms and biases included, away from its initial value."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)
    return peer.eval()


def perturbed(run, target):
    """Another run of the same network, its parameters no directory's."""
    ours = Ours.of(run)
    flat = {
        path: np.asarray(leaf) + RANDOM.normal(0, 0.1, leaf.shape).astype(np.float32)
        for path, leaf in rules.paths(ours.params).items()
    }
    target.mkdir()
    checkpoint.write_params(target, 0, rules.merge(flat, {}))
    for file in run.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())


def close(ours, theirs, tolerance, where=None):
    """Within `tolerance` of the largest entry of theirs."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    if where is not None:
        ours, theirs = ours[where > 0], theirs[where > 0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def agree(peer, ours, mask, types=None):
    """Hidden states, logits, loss and gradients of a network with a language head."""
    import torch

    def long(array):
        return torch.from_numpy(np.asarray(array)).long()

    both = ours.config.architecture == "encoder_decoder"
    decoder = ours.config.architecture == "decoder"
    given = {"input_ids": long(TOKENS), "attention_mask": long(mask)}
    if types is not None:
        given["token_type_ids"] = long(types)
    labels, where = (REPLIES, np.ones_like(REPLIES)) if both else (LABELS, mask)
    if decoder:
        labels = TOKENS
    given["labels"] = long(np.where(where > 0, labels, -100))
    out = peer(**given, output_hidden_states=True)
    peer.zero_grad()
    out.loss.backward()
    sequences = ours.sequences(TOKENS, mask, REPLIES if both else None, types)
    hidden = ours.hidden(*sequences)
    states = out.decoder_hidden_states if both else out.hidden_states
    close(hidden, states[-1], 1e-4, where)
    close(ours.logits(hidden), out.logits, 1e-4, where)
    if decoder:  # the last position predicts nothing
        labels = np.roll(labels, -1, axis=1)
        where = np.roll(where, -1, axis=1) * (np.arange(LENGTH) < LENGTH - 1)
    loss, gradients = ours.loss_and_gradients(labels, where, *sequences)
    np.testing.assert_allclose(loss, out.loss.item(), rtol=1e-5)
    flat = rules.paths(gradients)
    family = FAMILIES[peer.config.model_type].named(type(peer).__name__)
    theirs = dict(peer.named_parameters())
    moves = family.moves(ours.config, {path: leaf.shape for path, leaf in flat.items()})
    largest = max(float(p.grad.abs().max()) for p in theirs.values() if p.grad is not None)
    compared = 0
    for move in moves:
        if move.theirs not in theirs:  # BART's bias on the logits: a buffer there
            continue
        gradient = theirs[move.theirs].grad
        mine = move.how.outward([np.asarray(flat[p]) for p in move.ours], ours.config.vocab_size)
        if gradient is None or float(gradient.abs().max()) < 1e-6 * largest:
            assert np.abs(mine).max() < 1e-5 * largest, move.theirs  # a key's bias; a head unused
            continue
        close(mine, gradient, 1e-3)
        compared += 1
    assert compared > len(moves) * 0.8


def through(peer, tmp_path):
    """A network there -> the same here, `run` -> another here, `other` -> the same there, `back`."""
    there, run = tmp_path / "there", tmp_path / "run"
    peer.save_pretrained(there)
    tokenizer(there)
    convert.from_hf(str(there), str(run))
    other, back = tmp_path / "other", tmp_path / "back"
    perturbed(run, other)
    convert.to_hf(str(other), str(back))
    return other, run, back


def converse(peer, tmp_path, types=None, generate=False):
    """`peer`, a randomised network there -> the same here -> another here -> the same there."""
    import torch

    other, run, back = through(peer, tmp_path)
    again, said = type(peer).from_pretrained(
        back, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(said.values()), said
    for network, ours in ((peer, Ours.of(run)), (again.eval(), Ours.of(other))):
        for mask in (WHOLE, PADDED):
            agree(network, ours, mask, types)
        if generate:
            prompt = TOKENS[:, :5]
            network.generation_config.eos_token_id = None
            out = network.generate(
                torch.from_numpy(prompt).long(), max_new_tokens=NEW, do_sample=False, use_cache=False,
                attention_mask=torch.ones(prompt.shape, dtype=torch.long),
            ).numpy()  # fmt: skip
            np.testing.assert_array_equal(ours.greedy(prompt), out[:, -NEW:])

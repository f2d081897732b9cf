"""Tiny models with random parameters, and the scores of each way from rows written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from tiny_configs import WORDS

import models
import objectives
from data import tokenizer as tokenizers
from evaluation import Scorer, choose_way
from models.layers import lm_logits

WIDTH = 32


@functools.cache
def tokenizer():
    return tokenizers.train([" ".join(WORDS)] * 9, type="bpe", vocab_size=420)


@functools.cache
def tiny(architecture):
    """(model, params) with random parameters."""
    config = models.ModelConfig(
        architecture=architecture, num_layers=1, emb_dim=16, num_heads=2, mlp_dim=32,
        vocab_size=tokenizer().size, max_length=WIDTH, init_std=0.5, positions="rope",
    )  # fmt: skip
    model = models.build(config)
    tokens = jnp.ones((1, 4), jnp.int32)
    inputs = [models.make_inputs(tokens, tokens), None]
    if architecture == "encoder_decoder":
        inputs[1] = models.make_inputs(tokens, tokens, "causal")
    return model, model.init(jax.random.key(0), *inputs, method="init_all")["params"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def log_probs(model, attention, params, tokens, prefix, decoder_tokens, count):
    def inputs(row, attention, count, prefix=None):
        real = (jnp.arange(WIDTH) < count).astype(jnp.int32)[None]
        return models.make_inputs(row[None], real, attention, prefix)

    is_prefix = (jnp.arange(WIDTH) < prefix)[None] if attention == "prefix" else None
    has_decoder = model.config.architecture == "encoder_decoder"
    arguments = [inputs(tokens, "bidirectional" if has_decoder else attention, count[0], is_prefix)]
    if has_decoder:
        arguments.append(inputs(decoder_tokens, "causal", count[1]))
    hidden = model.apply({"params": params}, *arguments)
    features = model.apply({"params": params}, hidden, method="lm_features")
    table = model.apply({"params": params}, method="output_embedding")
    return jax.nn.log_softmax(lm_logits(features, *table)[0, :, : model.config.vocab_size])


def by_hand(architecture, tokens, targets, attention="bidirectional", prefix=0, decoder_tokens=()):
    """[log p(token)] of targets [(position, token)] in one row."""
    model, params = tiny(architecture)
    padded = [
        np.pad(np.array(row, np.int32), (0, WIDTH - len(row))) for row in (tokens, decoder_tokens)
    ]
    count = np.array([len(tokens), len(decoder_tokens)])
    found = log_probs(model, attention, params, padded[0], prefix, padded[1], count)
    return [float(found[position, token]) for position, token in targets]


def causal(context, scored, ids):
    row = [*context, *scored]
    first = len(context) or 1
    found = by_hand(
        "decoder", row[:-1], [(i - 1, row[i]) for i in range(first, len(row))], "causal"
    )
    return [np.nan] * (not context) + found


def prefix_decoder(context, scored, ids):
    row = [*context, *scored]
    places = range(len(context) or 1, len(row))
    found = by_hand("decoder", row[:-1], [(i - 1, row[i]) for i in places], "prefix", len(context))
    return [np.nan] * (not context) + found


def sentinel_decoder(context, scored, ids):
    source = [*context, ids["sentinels"][0], ids["eos"]]
    row = [*source, ids["sentinels"][0], *scored]
    places = range(len(source) + 1, len(row))
    return by_hand("decoder", row[:-1], [(i - 1, row[i]) for i in places], "prefix", len(source))


def prefix_encoder_decoder(context, scored, ids):
    return by_hand("encoder_decoder", [*context, ids["eos"]], list(enumerate(scored)),
                   decoder_tokens=[ids["start"], *scored[:-1]])  # fmt: skip


def sentinel_encoder_decoder(context, scored, ids):
    mark = ids["sentinels"][0]
    return by_hand("encoder_decoder", [*context, mark, ids["eos"]], list(enumerate(scored, 1)),
                   decoder_tokens=[ids["start"], mark, *scored[:-1]])  # fmt: skip


def mask_encoder_decoder(context, scored, ids):
    return by_hand("encoder_decoder", [*context, ids["mask"], ids["eos"]],
                   list(enumerate(scored, len(context))),
                   decoder_tokens=[ids["start"], *context, *scored[:-1]])  # fmt: skip


def masks_encoder_decoder(context, scored, ids):
    return by_hand("encoder_decoder", [*context, *[ids["mask"]] * len(scored), ids["eos"]],
                   list(enumerate(scored, len(context))),
                   decoder_tokens=[ids["start"], *context, *scored[:-1]])  # fmt: skip


def pll(context, scored, ids, within_word=False):
    row, found = [ids["cls"], *context, *scored, ids["sep"]], []
    for place in range(1 + len(context), len(row) - 1):
        masked, end = list(row), place + 1
        while (
            within_word and end < len(row) - 1 and not tokenizer().token(row[end]).startswith("Ġ")
        ):
            end += 1
        masked[place:end] = [ids["mask"]] * (end - place)
        found += by_hand("encoder", masked, [(place, row[place])])
    return found


def mntp(context, scored, ids):
    row, found = [*context, *scored], []
    for place in range(len(context), len(row)):
        masked = [*row[:place], ids["mask"], *row[place + 1 :], ids["eos"]]
        found += by_hand("decoder", masked, [(place - 1, row[place])]) if place else [np.nan]
    return found


def sentinel_pll(context, scored, ids):
    row, mark, found = [*context, *scored], ids["sentinels"][0], []
    for place in range(len(context), len(row)):
        source = [*row[:place], mark, *row[place + 1 :], ids["eos"]]
        found += by_hand(
            "encoder_decoder", source, [(1, row[place])], decoder_tokens=[ids["start"], mark]
        )
    return found


def name_of(value) -> str:
    """The name of a test case: the same in every process, which str of a function is not."""
    return value if isinstance(value, str) else getattr(value, "func", value).__name__


CASES = [
    (causal, "decoder", "auto", "causal_lm"),
    (causal, "decoder", "auto", ""),
    (prefix_decoder, "decoder", "auto", "prefix_lm"),
    (sentinel_decoder, "decoder", "auto", "span_corruption"),
    (mntp, "decoder", "pll", "causal_lm"),
    (prefix_encoder_decoder, "encoder_decoder", "auto", "prefix_lm"),
    (prefix_encoder_decoder, "encoder_decoder", "prefix", "span_corruption"),
    (sentinel_encoder_decoder, "encoder_decoder", "auto", "span_corruption"),
    (sentinel_encoder_decoder, "encoder_decoder", "auto", ""),
    (mask_encoder_decoder, "encoder_decoder", "auto", "text_infilling"),
    (masks_encoder_decoder, "encoder_decoder", "auto", "mass_style"),
    (sentinel_pll, "encoder_decoder", "pll", "span_corruption"),
    (pll, "encoder", "auto", "masked_lm"),
    (functools.partial(pll, within_word=True), "encoder", "pll_within_word_l2r", "masked_lm"),
]


def scorer_of(architecture, scoring="auto", objective="", **options):
    made = objectives.build(objective) if objective else None
    start = options.pop("start_token", "")
    way = choose_way(scoring, architecture, tokenizer(), made, start)
    return Scorer(*tiny(architecture), tokenizer(), way, **options)

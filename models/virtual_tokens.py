"""Adapters that prepend virtual tokens: prompt tuning and prefix tuning."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from models.adapters import TrainableAdapter, matching_dense_layers, module_adapter_params
from models.config import option
from models.inputs import AttentionMask, ModelInputs
from models.model import Embedder, Transformer


@dataclass(frozen=True)
class _VirtualTokens(TrainableAdapter):
    """`num_virtual_tokens` virtual tokens before each row; the row's own positions start after them."""

    num_virtual_tokens: int = option(20, "virtual tokens before each row", min=1)
    not_merged_because = "virtual tokens cannot be merged into weights"

    def check(self, config, length):
        if config.positions == "learned" and length + self.num_virtual_tokens > config.max_length:
            raise ValueError(
                f"adapter.num_virtual_tokens={self.num_virtual_tokens} and sequences of {length} tokens need "
                f"{length + self.num_virtual_tokens} positions, but the model has {config.max_length} "
                "learned ones; lower the sequence length or num_virtual_tokens"
            )

    def shift(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs with positions that start after the adapter's."""
        return inputs.replace(positions=inputs.positions + jnp.int32(self.num_virtual_tokens))

    def intercept_stacks(self, config, map_inputs, map_decoder_inputs, map_hidden):
        """An interceptor of a Transformer's methods: map_inputs changes the ModelInputs of the text,
        map_decoder_inputs those of the decoder in an encoder-decoder, and map_hidden selects the states
        of the text."""
        kind = config.architecture

        def intercept(next_fun, args, kwargs, method):
            if method == "encode" or (method == "__call__" and kind == "decoder"):
                hidden = next_fun(map_inputs(args[0]), *args[1:], **kwargs)
                return hidden if kind == "encoder_decoder" else map_hidden(hidden)
            if method == "decode":
                decoder_inputs, encoded, inputs = args
                return next_fun(
                    map_decoder_inputs(decoder_inputs), encoded, map_inputs(inputs), **kwargs
                )
            return next_fun(*args, **kwargs)

        return intercept


@dataclass(frozen=True)
class PromptTuning(_VirtualTokens):
    """Prompt tuning (Lester et al. 2021): trained token embeddings before the text, in the encoder of an
    encoder-decoder. They begin as random rows of the token embedding. A row must hold one segment, with
    no padding before it: relative biases, sliding windows and RoPE scaling use distances in the row."""

    name = "prompt"
    num_added_positions = property(lambda self: self.num_virtual_tokens)

    def adapted_modules(self, params):
        return {"embed/tokens": params["embed"]["tokens"]}

    def init(self, rng, params, config):
        # The rows that pad the vocabulary are no tokens.
        table = params["embed"]["tokens"]["embedding"][: config.vocab_size]
        return super().init(rng, {"embed": {"tokens": {"embedding": table}}}, config)

    def init_module(self, rng, leaves):
        table = leaves["embedding"]
        rows = jax.random.randint(rng, (self.num_virtual_tokens,), 0, table.shape[0])
        return {"prompt/embedding": table[rows]}

    def lengthen(self, inputs: ModelInputs) -> ModelInputs:
        """[B,T] -> [B,n+T]: with n positions before the text, in its segment and, if it has one, in its
        bidirectional prefix."""
        n = self.num_virtual_tokens

        def prepend(array, values):
            values = jnp.broadcast_to(jnp.asarray(values, array.dtype), (array.shape[0], n))
            return jnp.concatenate([values, array], axis=1)

        optional = {
            name: prepend(getattr(inputs, name), value)
            for name, value in (("prefix", [[True]]), ("token_type_ids", [[0]]))
            if getattr(inputs, name) is not None
        }
        return inputs.replace(
            tokens=prepend(inputs.tokens, [[0]]),
            segment_ids=prepend(inputs.segment_ids, [[1]]),
            positions=prepend(self.shift(inputs).positions, jnp.arange(n)[None]),
            **optional,
        )

    def interceptor(self, params, config):
        n, prompt = self.num_virtual_tokens, params["embed"]["tokens"]["prompt"]["embedding"]
        stacks = self.intercept_stacks(
            config, self.lengthen, lambda inputs: inputs, lambda hidden: hidden[:, n:]
        )
        of_text = []  # for each Embedder call in progress: whether it embeds the text

        def intercept(next_fun, args, kwargs, context):
            module, method = context.module, context.method_name
            if isinstance(module, Transformer):
                return stacks(next_fun, args, kwargs, method)
            if isinstance(module, Embedder) and method == "__call__":
                decoder = args[2] if len(args) > 2 else kwargs.get("decoder", False)
                of_text.append(not decoder)
                try:
                    return next_fun(*args, **kwargs)
                finally:
                    of_text.pop()
            embeddings = next_fun(*args, **kwargs)
            if (
                method == "__call__"
                and module.path == ("embed", "tokens")
                and of_text[-1:] == [True]
            ):
                virtual = jnp.broadcast_to(prompt[None], (embeddings.shape[0], *prompt.shape))
                embeddings = jnp.concatenate([virtual, embeddings[:, n:]], axis=1)
            return embeddings

        return intercept


@dataclass(frozen=True)
class PrefixTuning(_VirtualTokens):
    """Prefix tuning (Li & Liang 2021): trained keys and values before the keys and values of each attention.

    RoPE does not rotate these keys, and T5's bias to them is 0. The positions of the text still start at
    num_virtual_tokens."""

    name = "prefix"
    num_leading_keys = property(lambda self: self.num_virtual_tokens)
    target_modules: tuple = option(
        (r".*/(self|cross)_attention",), "regexes of the attention modules with a prefix"
    )

    def adapted_modules(self, params):
        shapes = {}
        for part in ("key", "value"):
            patterns = [f"({pattern})/{part}" for pattern in self.target_modules]
            for module, leaves in matching_dense_layers(params, patterns, "target_modules").items():
                sizes = shapes.setdefault(module.rpartition("/")[0], {})
                sizes[part] = leaves["kernel"].shape[1]
        return shapes

    def init_module(self, rng, leaves):
        shapes = {
            f"prefix/{part}": (self.num_virtual_tokens, size) for part, size in leaves.items()
        }
        rngs = jax.random.split(rng, len(shapes))
        return {
            name: 0.02 * jax.random.normal(each, shape, jnp.float32)
            for each, (name, shape) in zip(rngs, shapes.items(), strict=True)
        }

    def interceptor(self, params, config):
        n = self.num_virtual_tokens
        stacks = self.intercept_stacks(config, self.shift, self.shift, lambda hidden: hidden)

        def prepend(array, prefix):
            """k or v [B,S,G,K] -> [B,n+S,G,K]."""
            prefix = prefix.astype(array.dtype).reshape(1, n, *array.shape[2:])
            prefix = jnp.broadcast_to(prefix, (len(array), *prefix.shape[1:]))
            return jnp.concatenate([prefix, array], axis=1)

        def intercept(next_fun, args, kwargs, context):
            module, method = context.module, context.method_name
            if isinstance(module, Transformer):
                return stacks(next_fun, args, kwargs, method)
            adapter_params = module_adapter_params(module) if method == "extend_keys" else {}
            if not adapter_params:
                return next_fun(*args, **kwargs)
            k, v, mask, bias = args
            if isinstance(mask, AttentionMask):
                mask = mask.with_leading(n)
            else:  # of a cache
                mask = jnp.pad(mask, ((0, 0), (0, 0), (n, 0)), constant_values=True)
            if bias is not None and bias.ndim == 3:  # [H,T,S]; no distance to the prefix, so 0
                bias = jnp.pad(bias, ((0, 0), (0, 0), (n, 0)))
            return (
                prepend(k, adapter_params["prefix/key"]),
                prepend(v, adapter_params["prefix/value"]),
                mask,
                bias,
            )

        return intercept

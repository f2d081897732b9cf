"""Transformer: encoder, decoder or encoder-decoder, with its embeddings and LM head.
A loss calls it for hidden states, then `lm_features` and `output_embedding`, whose product is the
logits; objectives/loss.py computes it in chunks, so that a large [B,T,V] never exists.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.cache import CacheSlots
from models.config import ModelConfig
from models.initializers import ZEROS, initializer
from models.inputs import ModelInputs
from models.layer_loop import LayerLoop
from models.layers import ACTIVATIONS, Dense, Norm
from models.logical_axes import with_logical_constraint
from models.positions import sinusoids
from models.transformer import TransformerStack


class Embed(nn.Module):
    """ids int32[...] -> float32[...,E], rows of a parameter `embedding` [rows, E].

    An id of `rows` or more gives NaN, which a train step reports, instead of the last row. Ids are not
    negative (jnp.take would count them from the end; see objectives.batch.without_negative_ids).
    """

    config: ModelConfig
    rows: int
    kind: str  # of parameter, see models/initializers.py

    def setup(self):
        shape = (self.rows, self.config.resolved_embedding_size)
        self.embedding = self.param("embedding", initializer(self.config, self.kind), shape)

    def __call__(self, ids: jax.Array) -> jax.Array:
        table = self.embedding
        if self.kind == "token" and self.config.architecture != "embeddings":
            # Reshards the table before the lookup: if fsdp split its rows, XLA would gather all token ids.
            table = with_logical_constraint(table, "VE")
        if ids.ndim == 2:
            ids = with_logical_constraint(ids, "BT")
        return jnp.take(table, ids, axis=0, mode="fill")


class Embedder(nn.Module):
    """ModelInputs -> [B,T,E]: token embeddings, plus those of positions and token types if configured.

    With separate_decoder_embeddings, `decoder=True` selects the decoder's positions and norm.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.tokens = Embed(config, config.padded_vocab_size, "token")
        if config.positions == "learned":
            rows = config.position_offset + config.max_length
            self.positions = Embed(config, rows, "position")
            if config.separate_decoder_embeddings:
                self.decoder_positions = Embed(config, rows, "position")
        if config.num_token_types:
            self.types = Embed(config, config.num_token_types, "type")
        if config.embedding_norm:
            self.norm = Norm(config)
            if config.separate_decoder_embeddings:
                self.decoder_norm = Norm(config)
        self.dropout = nn.Dropout(config.resolved_embedding_dropout_rate)

    def __call__(
        self, inputs: ModelInputs, deterministic: bool = True, decoder: bool = False
    ) -> jax.Array:
        config = self.config
        decoder = decoder and config.separate_decoder_embeddings
        x = self.tokens(inputs.tokens)
        if config.positions == "learned":
            if inputs.tokens.shape[-1] > config.max_length:
                raise ValueError(
                    f"a sequence of {inputs.tokens.shape[-1]} tokens with "
                    f"model.max_length={config.max_length}: raise max_length or shorten sequences"
                )
            embed = self.decoder_positions if decoder else self.positions
            x = x + embed(inputs.positions + jnp.int32(config.position_offset))
        elif config.positions == "sinusoidal":
            size = config.resolved_embedding_size
            x = x * size**0.5 + sinusoids(inputs.positions, size)
        if config.scale_embeddings:
            x = x * config.resolved_embedding_size**0.5
        if config.num_token_types:
            types = inputs.token_type_ids
            x = x + self.types(jnp.zeros_like(inputs.tokens) if types is None else types)
        if config.embedding_norm:
            x = (self.decoder_norm if decoder else self.norm)(x)
        x = x.astype(jnp.dtype(config.dtype))
        return with_logical_constraint(self.dropout(x, deterministic=deterministic), "BTE")


class LMHead(nn.Module):
    """hidden[...,D] -> features[...,E or D], by BERT's transform and T5's scale if configured; also has
    the output bias [V] and an untied output embedding, `kernel` [D,V].

    A tied output embedding has size E. If E is not D, the transform maps hidden states to E (ALBERT,
    ELECTRA), or, without a transform, a `projection` does.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        tied = config.tie_word_embeddings
        features = config.resolved_embedding_size if tied else config.emb_dim
        if config.lm_head_transform:
            self.transform = Dense(config, features)
            self.norm = Norm(config)
        elif features != config.emb_dim:
            self.projection = Dense(config, features)
        if config.lm_head_bias:
            self.bias = self.param("bias", ZEROS, (config.padded_vocab_size,))
        if not tied:
            shape = (features, config.padded_vocab_size)
            self.kernel = self.param("kernel", initializer(config, "output"), shape)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        config = self.config
        if config.lm_head_transform:
            hidden = self.norm(ACTIVATIONS[config.activation](self.transform(hidden)))
        elif config.tie_word_embeddings and config.has_factorized_embeddings:
            hidden = self.projection(hidden)
        if config.scale_logits_by_embedding_size:
            hidden = hidden * config.resolved_embedding_size**-0.5
        return hidden

    def output_embedding(self, embedding: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """token embedding[V,E] -> (output embedding [V,E or D], bias [V] or None)."""
        embedding = embedding if self.config.tie_word_embeddings else self.kernel.T
        return embedding, self.bias if self.config.lm_head_bias else None


class Heads(nn.Module):
    """The LM head, `heads/lm`. Objectives and tasks add their heads beside it in the parameter tree."""

    config: ModelConfig

    def setup(self):
        self.lm = LMHead(self.config)


class Transformer(nn.Module):
    """Encoder, decoder or encoder-decoder with one token embedding.

    `projection` maps factorized embeddings to emb_dim. It is beside `embed`, not inside, so that two
    models with different emb_dim can share all of `embed`.
    """

    config: ModelConfig
    loop: LayerLoop = LayerLoop()

    def setup(self):
        config = self.config
        self.embed = Embedder(config)
        if config.has_factorized_embeddings:
            self.projection = Dense(config, config.emb_dim)
        self.heads = Heads(config)
        both = config.architecture == "encoder_decoder"
        if both or config.architecture == "encoder":
            self.encoder = TransformerStack(config, "encoder", loop=self.loop)
        if both or config.architecture == "decoder":
            shared = self.encoder if config.share_encoder_decoder else None
            self.decoder = TransformerStack(config, "decoder", both, shared, self.loop)

    def __call__(
        self,
        inputs: ModelInputs,
        decoder_inputs: ModelInputs | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Hidden states [B,T,D] of `inputs`, or of `decoder_inputs` for an encoder-decoder.

        Raises ValueError if the arguments do not fit the architecture.
        """
        config = self.config
        if (decoder_inputs is not None) != (config.architecture == "encoder_decoder"):
            raise ValueError(
                f"architecture {config.architecture!r} was called "
                f"{'without' if decoder_inputs is None else 'with'} decoder_inputs: expected them "
                "for an encoder_decoder and only there"
            )
        if config.architecture == "decoder":
            x = self.embed_inputs(inputs, deterministic)
            return self.decoder(x, inputs, deterministic=deterministic)
        encoded = self.encode(inputs, deterministic=deterministic)
        if decoder_inputs is None:
            return encoded
        return self.decode(decoder_inputs, encoded, inputs, deterministic=deterministic)

    def embed_inputs(
        self, inputs: ModelInputs, deterministic: bool = True, decoder: bool = False
    ) -> jax.Array:
        """Input [B,T,D] of a stack's first layer. decoder=True: for the decoder of an encoder-decoder, and in
        every decode step (prompt tuning then adds no virtual tokens)."""
        if self.has_variable("params", "adapter"):
            raise ValueError(
                "these parameters have an adapter, which this model does not apply: "
                "build it with models.build(config, adapter)"
            )
        x = self.embed(inputs, deterministic, decoder)
        if self.config.has_factorized_embeddings:
            x = with_logical_constraint(self.projection(x), "BTD")
        return x

    def encode(self, inputs: ModelInputs, *, deterministic: bool = True) -> jax.Array:
        """Hidden states [B,S,D] of the encoder stack."""
        x = self.embed_inputs(inputs, deterministic)
        return self.encoder(x, inputs, deterministic=deterministic)

    def decode(
        self,
        decoder_inputs: ModelInputs,
        encoded: jax.Array,
        inputs: ModelInputs,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Hidden states [B,T,D] of the decoder in an encoder-decoder; encoded[B,S,D] is from `encode`."""
        x = self.embed_inputs(decoder_inputs, deterministic, decoder=True)
        return self.decoder(x, decoder_inputs, encoded, inputs, deterministic=deterministic)

    def decode_step(self, inputs: ModelInputs, cache_slots: CacheSlots) -> jax.Array:
        """Hidden states [B,1,D] of the next tokens of cached rows; called by models.cache.decode_step."""
        x = self.embed_inputs(inputs, decoder=True)
        return self.decoder(x, inputs, cache_slots=cache_slots)

    def lm_features(self, hidden: jax.Array) -> jax.Array:
        """hidden[...,D] -> features[...,E], or [...,D] if untied: the LM head up to the output embedding."""
        return self.heads.lm(hidden)

    def output_embedding(self) -> tuple[jax.Array, jax.Array | None]:
        """(W[V,E or D], b[V] or None), float32: arguments of layers.lm_logits, whose `cap` is the config's
        final_logit_softcap. V is the padded vocabulary; the caller masks ids >= vocab_size."""
        return self.heads.lm.output_embedding(self.embed.tokens.embedding)

    def init_all(self, inputs: ModelInputs, decoder_inputs: ModelInputs | None = None):
        """Calls every submodule: model.init(rng, inputs, decoder_inputs, method='init_all')."""
        return self.lm_features(self(inputs, decoder_inputs)), self.output_embedding()

"""Transformer: the whole network in its three architectures, and its parts for the loss.
objectives/ and tasks/ call it: hidden states, then readout and unembedding where scores are wanted.
The scores themselves (hidden times vocabulary) are made in pieces by objectives/loss.py.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.axes import constrain
from models.config import ModelConfig
from models.initial import ZEROS, initial
from models.layers import ACTIVATIONS, Dense, Norm
from models.positions import sinusoids
from models.sequence import Sequence
from models.stack import Stack


class Table(nn.Module):
    """Rows by id: a parameter `embedding` [rows, E]. An id outside the table reads as NaN, which a
    training step reports, not as its nearest row."""

    config: ModelConfig
    rows: int
    kind: str  # row of the table of initial distributions (models/initial.py)

    def setup(self):
        self.embedding = self.param(
            "embedding",
            initial(self.config, self.kind),
            (self.rows, self.config.size_of_embedding),
        )

    def __call__(self, ids: jax.Array) -> jax.Array:  # int32[...] -> float32[...,E]
        return jnp.take(self.embedding, ids, axis=0, mode="fill")


class Embedder(nn.Module):
    """Sequence -> [B,T,E]: tokens, and positions and types where the config has them.

    With separate_embeddings what a decoder reads has positions and a norm of its own.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.tokens = Table(config, config.padded_vocab_size, "token")
        if config.positions == "learned":
            rows = config.position_offset + config.max_length
            self.positions = Table(config, rows, "position")
            if config.separate_embeddings:
                self.decoder_positions = Table(config, rows, "position")
        if config.token_types:
            self.types = Table(config, config.token_types, "type")
        if config.embedding_norm:
            self.norm = Norm(config)
            if config.separate_embeddings:
                self.decoder_norm = Norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def __call__(
        self, sequence: Sequence, deterministic: bool = True, decoder: bool = False
    ) -> jax.Array:
        config = self.config
        own = decoder and config.separate_embeddings
        x = self.tokens(sequence.tokens)
        if config.positions == "learned":
            if sequence.tokens.shape[-1] > config.max_length:
                raise ValueError(
                    f"a row of {sequence.tokens.shape[-1]} tokens with "
                    f"model.max_length={config.max_length}: raise max_length or shorten the rows"
                )
            table = self.decoder_positions if own else self.positions
            x = x + table(sequence.positions + jnp.int32(config.position_offset))
        elif config.positions == "sinusoidal":
            size = config.size_of_embedding
            x = x * size**0.5 + sinusoids(sequence.positions, size)
        if config.token_types:
            types = sequence.types
            x = x + self.types(jnp.zeros_like(sequence.tokens) if types is None else types)
        if config.embedding_norm:
            x = (self.decoder_norm if own else self.norm)(x)
        x = x.astype(jnp.dtype(config.dtype))
        return constrain(self.dropout(x, deterministic=deterministic), "BTE")


class LanguageHead(nn.Module):
    """What the output reads beside the token table: BERT's transform, a bias, an untied kernel.

    A tied output reads with rows of E entries: where E is not D the transform leads there (ALBERT,
    ELECTRA), and without one a plain `projection` does.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        features = config.size_of_embedding if config.tied_embeddings else config.width
        if config.readout_transform:
            self.transform = Dense(config, features)
            self.norm = Norm(config)
        elif features != config.width:
            self.projection = Dense(config, features)
        if config.output_bias:
            self.bias = self.param("bias", ZEROS, (config.padded_vocab_size,))
        if not config.tied_embeddings:
            shape = (features, config.padded_vocab_size)
            self.kernel = self.param("kernel", initial(config, "output"), shape)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        config = self.config
        if config.readout_transform:
            hidden = self.norm(ACTIVATIONS[config.activation](self.transform(hidden)))
        elif config.tied_embeddings and config.factorised:
            hidden = self.projection(hidden)
        if config.readout_scale:
            hidden = hidden * config.size_of_embedding**-0.5
        return hidden

    def unembedding(self, embedding: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        table = embedding if self.config.tied_embeddings else self.kernel.T
        return table, self.bias if self.config.output_bias else None


class Heads(nn.Module):
    """The heads that belong to pretraining: `lm`. Tasks keep theirs beside it in the tree."""

    config: ModelConfig

    def setup(self):
        self.lm = LanguageHead(self.config)


class Transformer(nn.Module):
    """Encoder, decoder or encoder-decoder over one token table.

    Where embeddings have a width of their own, `projection` lifts them to that of the stacks. It
    stands beside `embed`, so that two networks of unlike widths can share all of `embed`.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.embed = Embedder(config)
        if config.factorised:
            self.projection = Dense(config, config.width)
        self.heads = Heads(config)
        both = config.architecture == "encoder_decoder"
        if both or config.architecture == "encoder":
            self.encoder = Stack(config, "encoder")
        if both or config.architecture == "decoder":
            shared = self.encoder if config.shared_stacks else None
            self.decoder = Stack(config, "decoder", cross=both, shared=shared)

    def __call__(
        self, inputs: Sequence, decoder: Sequence | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Hidden states [B,T,D]: of the inputs, or of the decoder sequence of an encoder-decoder.

        Raises ValueError where the sequences do not fit the architecture.
        """
        config = self.config
        if (decoder is not None) != (config.architecture == "encoder_decoder"):
            raise ValueError(
                f"architecture {config.architecture!r} was called "
                f"{'without' if decoder is None else 'with'} a decoder sequence: "
                "an encoder_decoder reads two sequences, the others one"
            )
        if config.architecture == "decoder":
            return self.decoder(
                self.embedded(inputs, deterministic), inputs, deterministic=deterministic
            )
        encoded = self.encode(inputs, deterministic=deterministic)
        if decoder is None:
            return encoded
        return self.decode(decoder, encoded, inputs, deterministic=deterministic)

    def embedded(
        self, sequence: Sequence, deterministic: bool = True, decoder: bool = False
    ) -> jax.Array:
        """What the first layer reads, [B,T,D]; `decoder`: of an encoder-decoder's decoder."""
        x = self.embed(sequence, deterministic, decoder)
        return constrain(self.projection(x), "BTD") if self.config.factorised else x

    def encode(self, inputs: Sequence, *, deterministic: bool = True) -> jax.Array:
        """Hidden states [B,S,D] of the encoder stack."""
        x = self.embedded(inputs, deterministic)
        return self.encoder(x, inputs, deterministic=deterministic)

    def decode(
        self,
        decoder: Sequence,
        encoded: jax.Array,
        inputs: Sequence,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Hidden states [B,T,D] of an encoder-decoder's decoder over encoded[B,S,D] of inputs."""
        x = self.embedded(decoder, deterministic, decoder=True)
        return self.decoder(x, decoder, encoded, inputs, deterministic=deterministic)

    def readout(self, hidden: jax.Array) -> jax.Array:
        """hidden[...,D] -> features[...,E]: everything before the product with the vocabulary."""
        return self.heads.lm(hidden)

    def unembedding(self) -> tuple[jax.Array, jax.Array | None]:
        """(W[V,E], b[V] or None), float32, V padded: logits = features W^T + b, ids >= vocab_size
        to be masked."""
        return self.heads.lm.unembedding(self.embed.tokens.embedding)

    def initialise(self, inputs: Sequence, decoder: Sequence | None = None):
        """Touches every parameter; for model.init(key, inputs, decoder, method='initialise')."""
        return self.readout(self(inputs, decoder)), self.unembedding()

"""ModelConfig: every choice that shapes the network, checked when it is made.
Read by every module of models/; filled from a run's config by the entry files.
The range and the choices of a field are metadata, which training/config.py checks and names.
"""

from dataclasses import dataclass, field, replace

LANES = 128  # the vocabulary is padded to this: one TPU lane tile, and divisible by any mesh axis
# Fields that change nothing in what a network computes from its parameters, precision apart.
SILENT = ("dropout", "attention_dropout", "init_std", "dtype")


def knob(default, help, kw_only=False, **metadata):
    """A field of a config: its default, a line of help, and choices=, min= or max= for the checker."""
    return field(default=default, metadata={"help": help, **metadata}, kw_only=kw_only)


@dataclass(frozen=True)
class ModelConfig:
    """The network. Zero stands for "the usual value" where a field says so; no field is None."""

    architecture: str = knob(
        "encoder",
        "which stacks; embeddings: none, vectors of `width` alone (skip_gram)",
        choices=("encoder", "decoder", "encoder_decoder", "embeddings"),
    )
    vocab_size: int = knob(0, "pieces, before padding; 0: as many as the tokenizer has", min=0)
    max_length: int = knob(0, "positions of the learned table; 0: the rows' length", min=0)
    layers: int = knob(4, "layers of the (encoder) stack", min=1)
    decoder_layers: int = knob(0, "layers of an encoder-decoder's decoder; 0: as layers", min=0)
    width: int = knob(256, "size of a hidden state", min=1)
    embedding_size: int = knob(
        0, "width of the tables, projected to width where it differs (ALBERT); 0: as width", min=0
    )
    heads: int = knob(4, "query heads", min=1)
    kv_heads: int = knob(0, "key and value heads (grouped-query); 0: as heads", min=0)
    head_size: int = knob(0, "size of a head; 0: width / heads", min=0)
    mlp_size: int = knob(1024, "hidden size of the MLP", min=1)
    activation: str = knob(
        "gelu",
        "of the MLP and the readout transform; gelu is the exact one (erf)",
        choices=("gelu", "gelu_tanh", "relu", "silu"),
    )
    gated: bool = knob(False, "MLP act(gate x) * (in x): GEGLU, SwiGLU (Shazeer 2020)")
    norm: str = knob("layernorm", "normalisation", choices=("layernorm", "rmsnorm"))
    norm_position: str = knob(
        "pre", "norm of each sublayer's input, or of the sum after it", choices=("pre", "post")
    )
    norm_epsilon: float = knob(1e-6, "added to the variance", min=0.0)
    embedding_norm: bool = knob(False, "normalise the summed embeddings (BERT)")
    first_norm: bool = knob(
        True, "pre-norm: also before a stack's first self-attention (ModernBERT: embedding_norm is)"
    )
    separate_embeddings: bool = knob(
        False,
        "an encoder-decoder's decoder has a position table and embedding norm of its own (BART)",
    )
    positions: str = knob(
        "learned",
        "how positions enter",
        choices=("learned", "sinusoidal", "rotary", "relative", "none"),
    )
    position_offset: int = knob(
        0, "unused rows before the first of the learned position table (RoBERTa, BART: 2)", min=0
    )
    rotary_base: float = knob(10_000.0, "longest wavelength of rotary / 2 pi", min=1.0)
    local_rotary_base: float = knob(
        0.0,
        "rotary_base of layers that see a window alone (ModernBERT); 0: as rotary_base",
        min=0.0,
    )
    relative_buckets: int = knob(32, "buckets of T5's relative bias", min=4)
    relative_max_distance: int = knob(128, "distances beyond it share a bucket", min=2)
    tied_embeddings: bool = knob(True, "the output reads with the token table")
    biases: bool = knob(True, "biases in dense layers and in LayerNorm")
    query_key_value_biases: bool = knob(
        False, "biases in query, key and value where `biases` is False (Qwen2)"
    )
    output_bias: bool = knob(False, "a bias per piece on the logits (BERT)")
    readout_transform: bool = knob(False, "dense, activation, norm before the output (BERT)")
    readout_scale: bool = knob(False, "scale the output's features by their size^-1/2 (T5 v1.0)")
    attention_scale: bool = knob(True, "scale scores by head_size^-1/2 (False: T5)")
    token_types: int = knob(
        0, "rows of the token type table (BERT: 2); 0: as many as the objective tells apart", min=0
    )
    qk_norm: bool = knob(False, "normalise each head's query and key (Henry et al. 2020)")
    shared_stacks: bool = knob(
        False, "an encoder-decoder's decoder has the encoder's layers, and cross-attention (T5's P)"
    )
    window: int = knob(0, "self-attention sees |q - k| < window; 0: everything", min=0)
    global_every: int = knob(
        0, "each so many-th layer, from the first, sees beyond the window (ModernBERT: 3)", min=0
    )
    dropout: float = knob(0.0, "of embeddings and sublayer outputs", min=0.0, max=0.99)
    attention_dropout: float = knob(0.0, "of attention probabilities", min=0.0, max=0.99)
    init_std: float = knob(0.02, "of kernels and tables, see models/initial.py", min=0.0)
    dtype: str = knob("float32", "compute dtype", choices=("float32", "bfloat16"))

    def __post_init__(self):
        if self.architecture == "embeddings":
            if self.factorised:
                raise ValueError(
                    f"model.embedding_size={self.embedding_size} with architecture='embeddings', "
                    "which has nothing to project to: set model.width alone"
                )
            return
        if not self.head_size and self.width % self.heads:
            raise ValueError(
                f"model.heads={self.heads} does not divide model.width={self.width}: "
                "choose heads that do, or set model.head_size"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}: "
                "each key head serves an equal number of query heads"
            )
        if self.positions == "rotary" and self.size_of_head % 2:
            raise ValueError(
                f"rotary positions turn pairs, but a head has {self.size_of_head} entries: "
                "choose an even model.head_size"
            )
        if self.positions == "sinusoidal" and self.size_of_embedding % 2:
            raise ValueError(
                "sinusoidal positions come in pairs, but embeddings have "
                f"{self.size_of_embedding} entries: choose an even model.width or embedding_size"
            )
        if self.positions == "relative":
            # Half of the buckets hold one distance each; an encoder has half of them for each side.
            exact = self.relative_buckets // (4 if self.architecture == "encoder" else 2)
            if self.relative_buckets % 4 or self.relative_max_distance <= exact:
                raise ValueError(
                    f"model.relative_buckets={self.relative_buckets} with "
                    f"relative_max_distance={self.relative_max_distance}: expected a multiple of 4 "
                    f"and a distance above {exact}"
                )
        if self.decoder_layers and self.architecture != "encoder_decoder":
            raise ValueError(
                f"model.decoder_layers={self.decoder_layers} with architecture="
                f"{self.architecture!r}: only an encoder_decoder has them; set it to 0"
            )
        if self.shared_stacks and (
            self.architecture != "encoder_decoder" or self.decoder_layers not in (0, self.layers)
        ):
            raise ValueError(
                f"model.shared_stacks=True with architecture={self.architecture!r}, layers="
                f"{self.layers}, decoder_layers={self.decoder_layers}: expected an encoder_decoder "
                "with two stacks of equal depth; set it to False, or decoder_layers to 0"
            )
        if self.readout_scale and not self.tied_embeddings:
            raise ValueError(
                "model.readout_scale=True needs tied_embeddings=True: it undoes the size of the "
                "token table (T5 v1.0); set one of them otherwise"
            )
        self._check_layers()
        self._check_embeddings()

    def _check_layers(self):
        """What tells a stack's layers apart."""
        if self.global_every and not self.window:
            raise ValueError(
                f"model.global_every={self.global_every} with window=0: every layer sees everything; "
                "set model.window, or global_every to 0"
            )
        if self.local_rotary_base and (
            self.local_rotary_base < 1 or self.positions != "rotary" or not self.global_every
        ):
            raise ValueError(
                f"model.local_rotary_base={self.local_rotary_base} with positions="
                f"{self.positions!r} and global_every={self.global_every}: expected at least 1, rotary "
                "positions and layers of both kinds; set rotary_base alone"
            )
        if not self.first_norm and self.norm_position != "pre":
            raise ValueError(
                f"model.first_norm=False with norm_position={self.norm_position!r}: only norms that "
                "come before a sublayer can lack the first; set it to True"
            )

    def _check_embeddings(self):
        if self.position_offset and self.positions != "learned":
            raise ValueError(
                f"model.position_offset={self.position_offset} with positions={self.positions!r}: "
                "only a learned table has unused rows; set it to 0"
            )
        if self.separate_embeddings and (
            self.architecture != "encoder_decoder"
            or not (self.positions == "learned" or self.embedding_norm)
        ):
            raise ValueError(
                f"model.separate_embeddings=True with architecture={self.architecture!r}, positions="
                f"{self.positions!r}, embedding_norm={self.embedding_norm}: expected an "
                "encoder_decoder with learned positions or an embedding norm; set it to False"
            )

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_size or self.width // self.heads

    @property
    def size_of_embedding(self) -> int:
        """E, the width of the tables."""
        return self.embedding_size or self.width

    @property
    def factorised(self) -> bool:
        """Embeddings have a width of their own, and a projection (Lan et al. 2020, section 3.1)."""
        return self.size_of_embedding != self.width

    @property
    def padded_vocab_size(self) -> int:
        """V, the rows of the token table: vocab_size rounded up to a multiple of 128."""
        return -(-self.vocab_size // LANES) * LANES

    def window_of(self, layer: int) -> int:
        """How far self-attention of this layer of a stack sees; 0: everything."""
        return 0 if self.global_every and layer % self.global_every == 0 else self.window

    def rotary_base_of(self, layer: int) -> float:
        """The base by which self-attention of this layer of a stack turns."""
        local = self.local_rotary_base and self.window_of(layer)
        return self.local_rotary_base if local else self.rotary_base

    def depth(self, stack: str) -> int:
        """Layers of the stack called 'encoder' or 'decoder'."""
        if stack == "decoder" and self.decoder_layers:
            return self.decoder_layers
        return self.layers


def completed(
    config: ModelConfig, vocab_size: int, length: int, token_types: int = 0
) -> ModelConfig:
    """The config with its zeros filled in: the tokenizer's vocabulary, the rows' length, the token
    types that the objective tells apart.

    Raises ValueError when a given vocabulary is smaller than the tokenizer's, rows are too long or
    types too few.
    """
    if 0 < config.vocab_size < vocab_size:
        raise ValueError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer, which has "
            f"{vocab_size} pieces: set it to 0, and it is as large as the tokenizer"
        )
    if config.positions == "learned" and 0 < config.max_length < length:
        raise ValueError(
            f"model.max_length={config.max_length} positions are learned, but rows have {length} "
            "tokens: set it to 0, and it is as long as the rows"
        )
    if 0 < config.token_types < token_types:
        raise ValueError(
            f"model.token_types={config.token_types}, but the objective tells {token_types} types of "
            "token apart: set it to 0, and it is as many"
        )
    return replace(
        config,
        vocab_size=config.vocab_size or vocab_size,
        max_length=config.max_length or length,
        token_types=config.token_types or token_types,
    )


def explicit(config: ModelConfig) -> ModelConfig:
    """The config with zeros that stand for the usual value replaced by that value."""
    both = config.architecture == "encoder_decoder"
    turned = config.positions == "rotary" and config.global_every
    return replace(
        config,
        embedding_size=config.size_of_embedding,
        kv_heads=config.key_value_heads,
        head_size=config.size_of_head,
        decoder_layers=config.depth("decoder") if both else 0,
        local_rotary_base=config.local_rotary_base or (config.rotary_base if turned else 0.0),
    )

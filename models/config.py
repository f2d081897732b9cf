"""ModelConfig: every choice that defines a model, checked on construction.
All of models/ reads it; a run's config fills it in (`model.*`).
Ranges and choices are metadata of the fields, which training/config.py checks and prints.
"""

from dataclasses import dataclass, field, replace

from models.config_checks import check

VOCAB_MULTIPLE = 128  # one TPU lane tile; also divisible by mesh axes of 2, 4, ... 128
# Fields that do not change the logits of given parameters and inputs, apart from precision and dropout.
NON_STRUCTURAL_FIELDS = (
    "dropout_rate", "embedding_dropout_rate", "attention_dropout_rate", "init_std", "dtype",
    "lm_head_bias_init", "attention_kernel",
)  # fmt: skip


def option(default, help, kw_only=False, **metadata):
    """A dataclass field with a default, one line of help, and optional metadata: choices, min, max, words
    (strings that the field accepts besides values of its type), axis (True: each value of a tuple
    trains a replica, training/replicas.py)."""
    return field(default=default, metadata={"help": help, **metadata}, kw_only=kw_only)


@dataclass(frozen=True)
class ModelConfig:
    """The model. A zero means "use the default" where the help says so; no field is None."""

    architecture: str = option(
        "encoder",
        "the stacks of the model; embeddings: no stack, only word2vec's tables (skip_gram)",
        choices=("encoder", "decoder", "encoder_decoder", "embeddings"),
    )
    vocab_size: int = option(0, "vocabulary size without padding to 128; 0: the tokenizer's", min=0)
    max_length: int = option(
        0, "longest sequence, rows of the learned position table; 0: seq_len", min=0
    )
    num_layers: int = option(4, "layers per stack", min=1, max=10_000)
    num_decoder_layers: int = option(
        0, "layers of the decoder in an encoder-decoder; 0: num_layers", min=0, max=10_000
    )
    emb_dim: int = option(256, "D, the width of the hidden states (d_model of T5)", min=1)
    embedding_size: int = option(
        0, "E, the width of the embedding tables, projected to emb_dim (ALBERT); 0: emb_dim", min=0
    )
    num_heads: int = option(4, "query heads", min=1)
    num_kv_heads: int = option(0, "key and value heads (grouped-query); 0: num_heads", min=0)
    head_dim: int = option(0, "size of a head; 0: emb_dim / num_heads", min=0)
    mlp_dim: int = option(1024, "hidden size of the MLP", min=1)
    activation: str = option(
        "gelu",
        "activation of the MLP and of lm_head_transform; gelu is the exact one (erf)",
        choices=("gelu", "gelu_tanh", "relu", "silu"),
    )
    gated_mlp: bool = option(False, "MLP act(gate x) * (in x): GEGLU, SwiGLU (Shazeer 2020)")
    norm: str = option("layernorm", "normalization", choices=("layernorm", "rmsnorm"))
    norm_position: str = option(
        "pre",
        "what is normalized: a sublayer's input (pre), the residual sum (post), the sublayer's output before "
        "the sum (output; OLMo 2), or its input and its output (both; Gemma 2, 3)",
        choices=("pre", "post", "output", "both"),
    )
    norm_scale_offset: bool = option(False, "norm scales are 1 + the parameter (Gemma)")
    parallel_residual: bool = option(
        False, "attention and MLP read the same states (GPT-NeoX), not one after the other"
    )
    norm_epsilon: float = option(1e-6, "added to the variance", min=0.0)
    embedding_norm: bool = option(False, "normalize the summed embeddings (BERT)")
    skip_first_prenorm: bool = option(
        False, "no norm before a stack's first self-attention (ModernBERT, with embedding_norm)"
    )
    separate_decoder_embeddings: bool = option(
        False,
        "an encoder-decoder's decoder has its own positions and embedding norm (BART); tokens are shared",
    )
    positions: str = option(
        "learned",
        "position encoding",
        choices=("learned", "sinusoidal", "rope", "relative", "none"),
    )
    position_offset: int = option(
        0, "unused rows at the start of the learned position table (RoBERTa, BART: 2)", min=0
    )
    rope_theta: float = option(10_000.0, "base of the RoPE wavelengths", min=1.0)
    local_rope_theta: float = option(0.0, "base in sliding-window layers; 0: rope_theta", min=0.0)
    partial_rotary_factor: float = option(
        1.0, "share of a head's entries that RoPE rotates (GPT-NeoX: 0.25)", min=0.0, max=1.0
    )
    rope_scaling: str = option(
        "none",
        "how RoPE is scaled to longer sequences; in a model with global and sliding-window layers, only in "
        "the global ones",
        choices=("none", "linear", "dynamic", "yarn", "llama3", "longrope"),
    )
    rope_factor: float = option(1.0, "scaling factor of rope_scaling", min=1.0)
    rope_original_length: int = option(
        0, "context length of the pretraining before scaling (not for linear); 0: max_length", min=0
    )
    rope_attention_factor: float = option(
        0.0, "scale of rotated queries and keys (yarn, longrope); 0: the paper's formula", min=0.0
    )
    rope_beta_fast: float = option(32.0, "rotations above which yarn does not scale", min=0.0)
    rope_beta_slow: float = option(1.0, "rotations below which yarn scales fully", min=0.0)
    rope_truncate: bool = option(
        True, "yarn rounds the frequency indices of rope_beta_fast and rope_beta_slow to integers"
    )
    rope_low_freq_factor: float = option(
        1.0, "llama3 scales wavelengths above rope_original_length / this by rope_factor", min=0.0
    )
    rope_high_freq_factor: float = option(
        4.0, "llama3 does not scale wavelengths below rope_original_length / this", min=0.0
    )
    rope_short_factors: tuple = option(
        (), "longrope's factor of each wavelength, in texts of at most rope_original_length"
    )
    rope_long_factors: tuple = option((), "longrope's factors in longer texts")
    relative_num_buckets: int = option(32, "buckets of T5's relative position bias", min=4)
    relative_max_distance: int = option(128, "all longer distances share a bucket", min=2)
    tie_word_embeddings: bool = option(True, "the output embedding is the token embedding")
    use_bias: bool = option(True, "biases in dense layers and in LayerNorm")
    use_qkv_bias: bool = option(
        False, "biases in query, key and value even without use_bias (Qwen2)"
    )
    lm_head_bias: bool = option(False, "a bias per token on the logits (BERT)")
    lm_head_transform: bool = option(False, "dense, activation and norm before the logits (BERT)")
    scale_logits_by_embedding_size: bool = option(
        False, "scale the features before the logits by embedding_size^-1/2 (T5 v1.0)"
    )
    scale_embeddings: bool = option(False, "scale token embeddings by their size^1/2 (Gemma)")
    attention_scale_dim: int = option(
        0,
        "attention scores are scaled by this^-1/2 (Gemma's query_pre_attn_scalar); 0: by head_dim^-1/2",
        min=0,
    )
    scale_attention: bool = option(True, "scale scores by head_dim^-1/2 (False: T5)")
    attention_logit_softcap: float = option(
        0.0, "cap c of attention scores s: c tanh(s / c) (Gemma 2: 50); 0: none", min=0.0
    )
    final_logit_softcap: float = option(
        0.0, "the same cap on the LM head's logits (Gemma 2: 30); 0: none", min=0.0
    )
    num_token_types: int = option(
        0, "rows of the token type table (BERT: 2); 0: as many as the objective uses", min=0
    )
    qk_norm: bool = option(False, "normalize each head's query and key (Henry et al. 2020)")
    qk_norm_over_heads: bool = option(False, "qk_norm over all heads together (OLMo 2)")
    share_encoder_decoder: bool = option(
        False,
        "the decoder uses the encoder's layers and adds cross-attention (Raffel et al. 2020)",
    )
    sliding_window: int = option(0, "self-attention only to |q - k| < this; 0: no limit", min=0)
    global_attn_every_n_layers: int = option(
        0,
        "every n-th layer, from first_global_layer on, ignores sliding_window (ModernBERT: 3); 0: none does",
        min=0,
    )
    first_global_layer: int = option(
        0, "first layer that global_attn_every_n_layers makes global (Gemma 3: 5, n = 6)", min=0
    )
    attention_kernel: str = option(
        "auto",
        "dense: scores of all queries and keys in memory; chunked: in blocks; splash: on a TPU; triton: on a "
        "GPU; auto: dense for short rows, else splash or triton where they can run, else chunked "
        "(docs/models.md)",
        choices=("auto", "dense", "chunked", "splash", "triton"),
    )
    dropout_rate: float = option(
        0.0, "dropout of sublayer outputs and of embeddings", min=0.0, max=0.99
    )
    embedding_dropout_rate: float = option(
        -1.0, "dropout of embeddings; below 0: dropout_rate", min=-1.0, max=0.99
    )
    attention_dropout_rate: float = option(
        0.0, "dropout of attention probabilities", min=0.0, max=0.99
    )
    init_std: float = option(0.02, "std of kernels and embeddings, see initializers.py", min=0.0)
    dtype: str = option("float32", "compute dtype", choices=("float32", "bfloat16"))
    lm_head_bias_init: str = option(
        "unigram",
        "initial bias of each pretraining head: log frequencies of its targets, or zeros",
        choices=("unigram", "zeros"),
    )

    def __post_init__(self):
        for name in ("rope_short_factors", "rope_long_factors"):  # a config.json has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check(self)

    @property
    def resolved_num_kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def resolved_head_dim(self) -> int:
        return self.head_dim or self.emb_dim // self.num_heads

    @property
    def resolved_embedding_size(self) -> int:
        """E, the size of an embedding."""
        return self.embedding_size or self.emb_dim

    @property
    def rotary_dim(self) -> int:
        """R, the entries of a head that RoPE rotates."""
        return int(self.resolved_head_dim * self.partial_rotary_factor)

    @property
    def resolved_embedding_dropout_rate(self) -> float:
        rate = self.embedding_dropout_rate
        return self.dropout_rate if rate < 0 else rate

    @property
    def has_factorized_embeddings(self) -> bool:
        """Whether embeddings are projected to emb_dim (Lan et al. 2020, section 3.1)."""
        return self.resolved_embedding_size != self.emb_dim

    @property
    def padded_vocab_size(self) -> int:
        """V, the rows of the token embedding: vocab_size rounded up to a multiple of 128."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def sliding_window_at(self, layer: int) -> int:
        """The sliding window of this layer's self-attention; 0: no limit."""
        every = self.global_attn_every_n_layers
        is_global = every and layer % every == self.first_global_layer
        return 0 if is_global else self.sliding_window

    def rope_theta_at(self, layer: int) -> float:
        """The RoPE theta of this layer's self-attention."""
        is_local = self.local_rope_theta and self.sliding_window_at(layer)
        return self.local_rope_theta if is_local else self.rope_theta

    def rope_scaling_at(self, layer: int) -> str:
        """The RoPE scaling of this layer's self-attention."""
        is_local = self.global_attn_every_n_layers and self.sliding_window_at(layer)
        return "none" if is_local else self.rope_scaling

    def layer_kind(self, layer: int) -> tuple:
        """The settings in which layers of a stack can differ; layers with equal settings share a program."""
        window, theta = self.sliding_window_at(layer), self.rope_theta_at(layer)
        return window, theta, self.rope_scaling_at(layer), self.skip_first_prenorm and layer == 0

    def num_layers_in(self, stack: str) -> int:
        """Layers of the stack 'encoder' or 'decoder'."""
        if stack == "decoder" and self.num_decoder_layers:
            return self.num_decoder_layers
        return self.num_layers


def complete_config(
    config: ModelConfig, vocab_size: int, seq_len: int, num_token_types: int = 0
) -> ModelConfig:
    """Sets each of vocab_size, max_length and num_token_types that is 0, from the tokenizer's size, the
    sequence length and the objective's number of token types.

    Raises ValueError if a value in the config is smaller than needed.
    """
    for name, needed, unit in (
        ("vocab_size", vocab_size, "tokens of the tokenizer"),
        ("max_length", seq_len if config.positions == "learned" else 0, "positions of a sequence"),
        ("num_token_types", num_token_types, "token types of the objective"),
    ):
        if 0 < getattr(config, name) < needed:
            raise ValueError(
                f"model.{name}={getattr(config, name)} is smaller than the {needed} {unit}: "
                f"set it to 0 or at least {needed}"
            )
    return replace(
        config,
        vocab_size=config.vocab_size or vocab_size,
        max_length=config.max_length or seq_len,
        num_token_types=config.num_token_types or num_token_types,
    )


def resolve_defaults(config: ModelConfig) -> ModelConfig:
    """Fills in the zeros whose default is another field, and sets such a field to 0 where it has no
    effect, so that the configs of equal models are equal."""
    encoder_decoder = config.architecture == "encoder_decoder"
    two_thetas = config.positions == "rope" and config.global_attn_every_n_layers
    has_original = config.rope_scaling not in ("none", "linear")
    original = config.rope_original_length or config.max_length
    return replace(
        config,
        embedding_size=config.resolved_embedding_size,
        num_kv_heads=config.resolved_num_kv_heads,
        head_dim=config.resolved_head_dim,
        num_decoder_layers=config.num_layers_in("decoder") if encoder_decoder else 0,
        local_rope_theta=config.local_rope_theta or (config.rope_theta if two_thetas else 0.0),
        rope_original_length=original if has_original else 0,
    )

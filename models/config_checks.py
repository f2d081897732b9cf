"""Checks between the fields of a ModelConfig, made on construction; a field alone is checked by its
metadata (training/config.py).
"""

# rope_scaling -> the fields that it uses.
_ROPE_FIELDS = {
    "none": (),
    "linear": ("rope_factor",),
    "dynamic": ("rope_factor", "rope_original_length"),
    "yarn": ("rope_factor", "rope_original_length", "rope_attention_factor", "rope_beta_fast",
             "rope_beta_slow", "rope_truncate"),
    "llama3": ("rope_factor", "rope_original_length", "rope_low_freq_factor",
               "rope_high_freq_factor"),
    "longrope": ("rope_factor", "rope_original_length", "rope_attention_factor",
                 "rope_short_factors", "rope_long_factors"),
}  # fmt: skip


def check(config) -> None:
    """Raises ValueError for fields of a ModelConfig that contradict each other."""
    if config.architecture == "embeddings":
        if config.has_factorized_embeddings:
            raise _error(config, "architecture embedding_size", "set emb_dim instead")
        return
    encoder_decoder = config.architecture == "encoder_decoder"
    if not config.head_dim and config.emb_dim % config.num_heads:
        raise _error(
            config,
            "num_heads emb_dim",
            "num_heads must divide emb_dim; choose a divisor, or set head_dim",
        )
    if config.num_heads % config.resolved_num_kv_heads:
        raise _error(
            config, "num_kv_heads num_heads", "num_kv_heads must divide num_heads; choose a divisor"
        )
    _check_rope(config)
    if config.positions == "sinusoidal" and config.resolved_embedding_size % 2:
        raise _error(
            config,
            "positions resolved_embedding_size",
            "sinusoids need an even size; choose an even emb_dim or embedding_size",
        )
    # Half of the buckets hold one distance each. An encoder splits all buckets between left and right;
    # in an encoder-decoder, the decoder's limit is the stricter one.
    exact = config.relative_num_buckets // (4 if config.architecture == "encoder" else 2)
    bad_buckets = config.relative_num_buckets % 4 or config.relative_max_distance <= exact
    if config.positions == "relative" and bad_buckets:
        raise _error(
            config,
            "relative_num_buckets relative_max_distance",
            f"expected a multiple of 4 and a distance above {exact}; change one of them",
        )
    if config.num_decoder_layers and not encoder_decoder:
        raise _error(
            config,
            "num_decoder_layers architecture",
            "only an encoder_decoder has them; set it to 0",
        )
    equal_depth = config.num_decoder_layers in (0, config.num_layers)
    if config.share_encoder_decoder and not (encoder_decoder and equal_depth):
        raise _error(
            config,
            "share_encoder_decoder architecture num_layers num_decoder_layers",
            "expected an encoder_decoder with two stacks of equal depth; set it to False, or "
            "num_decoder_layers to 0",
        )
    if config.global_attn_every_n_layers and not config.sliding_window:
        raise _error(
            config,
            "global_attn_every_n_layers sliding_window",
            "without a window every layer is global; set sliding_window, or "
            "global_attn_every_n_layers to 0",
        )
    if config.first_global_layer and config.first_global_layer >= config.global_attn_every_n_layers:
        raise _error(
            config,
            "first_global_layer global_attn_every_n_layers",
            "first_global_layer must be the smaller one; change one of them",
        )
    if config.qk_norm_over_heads and not config.qk_norm:
        raise _error(config, "qk_norm_over_heads qk_norm", "without qk_norm it has no effect")
    if config.attention_scale_dim and not config.scale_attention:
        raise _error(
            config,
            "attention_scale_dim scale_attention",
            "it has no effect without scale_attention; set it to 0",
        )
    unigram_bias = config.lm_head_bias and config.lm_head_bias_init == "unigram"
    if config.final_logit_softcap and unigram_bias:
        raise _error(
            config,
            "final_logit_softcap lm_head_bias lm_head_bias_init",
            "capped logits cannot start at log frequencies; set lm_head_bias_init to zeros",
        )
    if config.scale_embeddings and config.positions in ("sinusoidal", "learned"):
        raise _error(
            config,
            "scale_embeddings positions",
            "sinusoidal positions scale token embeddings already, and learned ones would be scaled too; set "
            "it to False",
        )
    if config.parallel_residual and (encoder_decoder or config.norm_position == "post"):
        raise _error(
            config,
            "parallel_residual architecture norm_position",
            "it needs a model with one stack, and norm_position other than post; set it to False",
        )
    two_thetas = config.positions == "rope" and config.global_attn_every_n_layers
    if config.local_rope_theta and (config.local_rope_theta < 1 or not two_thetas):
        raise _error(
            config,
            "local_rope_theta positions global_attn_every_n_layers",
            "expected at least 1, positions=rope, and both global and sliding-window layers; "
            "set rope_theta alone",
        )
    if config.skip_first_prenorm and config.norm_position != "pre":
        raise _error(
            config,
            "skip_first_prenorm norm_position",
            "only norm_position=pre can skip a norm; set it to False",
        )
    if config.position_offset and config.positions != "learned":
        raise _error(
            config, "position_offset positions", "only a learned table has unused rows; set it to 0"
        )
    has_own = encoder_decoder and (config.positions == "learned" or config.embedding_norm)
    if config.separate_decoder_embeddings and not has_own:
        raise _error(
            config,
            "separate_decoder_embeddings architecture positions embedding_norm",
            "expected an encoder_decoder with learned positions or an embedding norm; "
            "set it to False",
        )


def _check_rope(config):
    is_rope = config.positions == "rope"
    if not is_rope and (config.rope_scaling != "none" or config.partial_rotary_factor != 1):
        raise _error(
            config,
            "positions rope_scaling partial_rotary_factor",
            "without RoPE they have no effect; set rope_scaling to none and partial_rotary_factor to 1",
        )
    if is_rope and (config.rotary_dim % 2 or not config.rotary_dim):
        raise _error(
            config,
            "positions resolved_head_dim num_heads partial_rotary_factor",
            "RoPE needs an even head_dim, or an even share of it above 0; choose one",
        )
    used = _ROPE_FIELDS[config.rope_scaling]
    for name in sorted({name for names in _ROPE_FIELDS.values() for name in names} - set(used)):
        if getattr(config, name) != type(config).__dataclass_fields__[name].default:
            raise _error(
                config,
                f"{name} rope_scaling",
                f"this rope_scaling does not use it; set {name} to its default, or choose another",
            )
    if config.rope_scaling == "llama3":
        if not 0 < config.rope_low_freq_factor < config.rope_high_freq_factor:
            raise _error(
                config,
                "rope_low_freq_factor rope_high_freq_factor",
                "expected 0 < rope_low_freq_factor < rope_high_freq_factor; change one of them",
            )
    if config.rope_scaling == "yarn" and not 0 < config.rope_beta_slow <= config.rope_beta_fast:
        raise _error(
            config,
            "rope_beta_slow rope_beta_fast",
            "expected 0 < rope_beta_slow <= rope_beta_fast; change one of them",
        )
    if config.rope_scaling == "yarn" and config.rope_theta == 1:
        raise _error(config, "rope_theta rope_scaling", "yarn needs a rope_theta above 1; raise it")
    original = config.rope_original_length or config.max_length
    if config.rope_scaling == "longrope" and original == 1 and not config.rope_attention_factor:
        raise _error(
            config,
            "rope_original_length max_length rope_scaling",
            "longrope divides by the logarithm of the original length; set rope_original_length above 1",
        )
    if config.rope_scaling == "dynamic" and config.rotary_dim == 2:
        raise _error(
            config,
            "rope_scaling resolved_head_dim partial_rotary_factor",
            "dynamic scaling needs at least 4 rotated entries of a head; choose another, or raise one",
        )
    for name in ("rope_short_factors", "rope_long_factors"):
        factors, count = getattr(config, name), config.rotary_dim // 2
        numbers = [x for x in factors if type(x) in (int, float) and x > 0]
        if name in used and (len(factors) != count or len(numbers) != count):
            raise _error(config, name, f"expected {count} numbers above 0, one for each wavelength")


def _error(config, names: str, message: str) -> ValueError:
    """A ValueError that shows these fields or properties (names separated by spaces)."""
    values = ", ".join(
        f"{name.removeprefix('resolved_')}={getattr(config, name)!r}" for name in names.split()
    )
    return ValueError(f"model.{values}: {message}")

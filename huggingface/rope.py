"""The RoPE of a config.json: theta, the rotated share of a head, and the scaling to longer sequences.

One place for every family and for each spelling: `rope_parameters` of transformers 5, `rope_scaling`
with `rope_theta` of transformers 4, and the `type` of older files.
"""

import math
from typing import Any

from huggingface.config_mapping import CustomKey, TrackedConfig, disagreement
from models.config import ModelConfig

ORIGINAL = "original_max_position_embeddings"
_YARN = {
    "factor": "rope_factor",
    ORIGINAL: "rope_original_length",
    "attention_factor": "rope_attention_factor",
    "beta_fast": "rope_beta_fast",
    "beta_slow": "rope_beta_slow",
    "truncate": "rope_truncate",
}
# rope_type -> {key: field}; any other key of the object is refused by its name.
SCALINGS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "dynamic": {"factor": "rope_factor"},
    "yarn": _YARN,
    "llama3": {
        "factor": "rope_factor",
        ORIGINAL: "rope_original_length",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
    },
    "longrope": {
        "factor": "rope_factor",
        ORIGINAL: "rope_original_length",
        "attention_factor": "rope_attention_factor",
        "short_factor": "rope_short_factors",
        "long_factor": "rope_long_factors",
    },
}
_OPTIONAL = {"attention_factor": 0.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
FIELDS = tuple(
    dict.fromkeys(["rope_scaling", *(f for keys in SCALINGS.values() for f in keys.values())])
)


def rope_key(
    theta: float = 10_000.0,
    theta_key: str = "rope_theta",
    fraction: float = 1.0,
    fraction_key: str = "partial_rotary_factor",
    has_fraction: bool = False,
    scalings: tuple[str, ...] = tuple(SCALINGS),
    renamed: dict[str, str] | None = None,
    original: int | None = None,
) -> CustomKey:
    """The CustomKey of a family whose layers have one RoPE.

    Args:
      theta: the default of `theta_key`, the older place of rope_theta.
      fraction: the default of `fraction_key`, the older place of partial_rotary_factor.
      has_fraction: whether transformers rotates a part of each head; without, only 1 is supported.
      scalings: the rope types that transformers has for the family.
      renamed: {older name: rope type}.
      original: the default of original_max_position_embeddings beside the object, if the config class
        has it there (Phi-3).
    """
    fields = ("rope_theta", *FIELDS, *(("partial_rotary_factor",) * has_fraction))

    def read(config):
        found = _merged(config)
        first = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        positions = config.get("max_position_embeddings")
        base = _one_of(first, found, "rope_theta", config, theta_key, theta)
        share = _one_of(first, found, "partial_rotary_factor", config, fraction_key, fraction)
        if not has_fraction and share != 1:
            raise ValueError(f"partial_rotary_factor={share!r} (expected 1.0)")
        start = config.get(ORIGINAL, original)
        scaling = read_scaling(first, found, positions, start, scalings, renamed)
        share = {"partial_rotary_factor": share} if has_fraction else {}
        return {"rope_theta": base, **share, **scaling}

    def write(model):
        scaled, share = write_scaling(model), {}
        if has_fraction:
            share = {"partial_rotary_factor": model.partial_rotary_factor}
        elsewhere = {
            theta_key: model.rope_theta,
            "rope_scaling": scaled if model.rope_scaling != "none" else None,
        }
        if has_fraction:
            elsewhere[fraction_key] = model.partial_rotary_factor
        if original and ORIGINAL in scaled:
            elsewhere[ORIGINAL] = scaled[ORIGINAL]
        if scaled["rope_type"] not in scalings:
            raise ValueError(f"model.rope_scaling={model.rope_scaling!r} (expected none)")
        return {"rope_parameters": {"rope_theta": model.rope_theta, **share, **scaled}, **elsewhere}

    keys = ("rope_parameters", "rope_scaling", theta_key, fraction_key, ORIGINAL)
    return CustomKey(fields, read, write, keys)


TWO_ROPES_FIELDS = ("rope_theta", "local_rope_theta", *FIELDS)
ThetaKeys = dict[str, tuple[str, float]]  # {kind of layer: (older place of its theta, default)}


def read_two_ropes(config: dict, full: str, local: str, theta_keys: ThetaKeys) -> dict[str, Any]:
    """{field: value} of a family with a RoPE for each of two kinds of layers; that of the layers with a
    window is not scaled (ModernBERT, Gemma 3)."""
    if older := config.get("rope_scaling"):
        raise ValueError(f"rope_scaling={dict(older)!r} (expected rope_parameters.{full})")
    ropes = config.get("rope_parameters") or {}
    if not isinstance(ropes, dict):
        raise ValueError(f"rope_parameters={ropes!r} (expected an object)")
    positions, found, thetas = config.get("max_position_embeddings"), {}, {}
    for kind in (full, local):
        name, rope = f"rope_parameters.{kind}", ropes.get(kind)
        if rope is not None and not isinstance(rope, dict):
            raise ValueError(f"{name}={rope!r} (expected an object)")
        rope = _mark(rope)
        thetas[kind] = _one_of(name, rope, "rope_theta", config, *theta_keys[kind])
        if rope.get("partial_rotary_factor", 1) != 1:
            raise ValueError(f"{name}.partial_rotary_factor={rope['partial_rotary_factor']!r}")
        scalings = ("default", "linear") if kind == full else ("default",)
        found |= read_scaling(name, rope, positions, None, scalings) if kind == full else {}
        read_scaling(name, rope, positions, None, scalings)
    return {"rope_theta": thetas[full], "local_rope_theta": thetas[local], **found}


def write_two_ropes(model: ModelConfig, full: str, local: str, theta_keys: ThetaKeys) -> dict:
    """The keys of such a family."""
    thetas = {full: model.rope_theta, local: model.local_rope_theta or model.rope_theta}
    if model.rope_scaling not in ("none", "linear"):
        raise ValueError(f"model.rope_scaling={model.rope_scaling!r} (expected 'none' or 'linear')")
    return {
        **{theta_keys[kind][0]: theta for kind, theta in thetas.items()},
        "rope_parameters": {
            kind: {"rope_theta": theta, **write_scaling(model, "" if kind == full else "default")}
            for kind, theta in thetas.items()
        },
    }


def read_scaling(
    name: str,
    found: dict,
    positions: Any,
    original: Any = None,
    scalings: tuple[str, ...] = tuple(SCALINGS),
    renamed: dict[str, str] | None = None,
) -> dict[str, Any]:
    """{field: value} of one object with rope_type.

    Args:
      name: of the object, for messages.
      positions: max_position_embeddings.
      original: original_max_position_embeddings outside of the object, which goes first.

    Raises ValueError, naming the key, for a type, a key or a value that is not supported.
    """
    kind, older = found.get("rope_type"), found.get("type")
    if kind and older and kind != older:
        raise ValueError(disagreement({f"{name}.rope_type": kind, f"{name}.type": older}))
    kind = kind or older or "default"
    kind = (renamed or {}).get(kind, kind)
    if kind not in scalings:
        raise ValueError(f"{name}.rope_type={kind!r} (expected one of {', '.join(scalings)})")
    if original is not None and found.get(ORIGINAL, original) != original:
        raise ValueError(disagreement({ORIGINAL: original, f"{name}.{ORIGINAL}": found[ORIGINAL]}))
    values = {}
    if kind == "yarn":
        values["attention_factor"] = _yarn_attention(name, found)
    for key in SCALINGS[kind]:
        value = values.get(key) or found.get(key)
        if key == ORIGINAL:
            value = original or value or positions
        elif value is None and key == "factor" and kind in ("yarn", "longrope"):
            start = original or found.get(ORIGINAL) or positions
            value = positions / _number(f"{name}.{ORIGINAL}", start)
        elif value is None and key in _OPTIONAL:
            values[key] = _OPTIONAL[key]
            continue
        values[key] = _checked(f"{name}.{key}", value)
    unknown = [key for key in found if key not in (*SCALINGS[kind], *_ALWAYS, *_YARN_ONLY[kind])]
    if unknown:
        raise ValueError(
            f"{name}.{unknown[0]}={found[unknown[0]]!r} is not read with rope_type={kind!r} (expected "
            "no such key)"
        )
    if kind == "longrope" and values["factor"] < 1:
        values["factor"] = 1.0  # as in transformers, which then scales by 1
    scaling = {"rope_scaling": "none" if kind == "default" else kind}
    if kind == "dynamic":
        scaling["rope_original_length"] = _checked("max_position_embeddings", positions)
    return scaling | {SCALINGS[kind][key]: value for key, value in values.items()}


_ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_YARN_ONLY = {kind: ("mscale", "mscale_all_dim") * (kind == "yarn") for kind in SCALINGS}


def write_scaling(model: ModelConfig, kind: str = "") -> dict[str, Any]:
    """An object with rope_type, of the model's scaling (kind='default': of a layer without)."""
    kind = kind or ("default" if model.rope_scaling == "none" else model.rope_scaling)
    values = {key: getattr(model, field) for key, field in SCALINGS[kind].items()}
    values = {
        key: value
        for key, value in values.items()
        if key not in _OPTIONAL or value != _OPTIONAL[key]
    }
    return {
        "rope_type": kind,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
    }


def _merged(config):
    """The RoPE object of a config: rope_scaling, or else rope_parameters. Both may be given if they
    agree."""
    older, newer = config.get("rope_scaling"), config.get("rope_parameters")
    for name, found in (("rope_scaling", older), ("rope_parameters", newer)):
        if found is not None and not isinstance(found, dict):
            raise ValueError(f"{name}={found!r} (expected an object)")
    older, newer = _mark(older), _mark(newer)
    for key in older.keys() & newer.keys():
        if older[key] != newer[key]:
            values = {f"rope_scaling.{key}": older[key], f"rope_parameters.{key}": newer[key]}
            raise ValueError(disagreement(values))
    if (
        older
        and newer
        and not older.keys() >= newer.keys() - {"rope_theta", "partial_rotary_factor"}
    ):
        key = sorted(newer.keys() - older.keys())[0]
        raise ValueError(
            disagreement({"rope_scaling": dict(older), f"rope_parameters.{key}": newer[key]})
        )
    return {**newer, **older}


def _mark(found):
    """A plain dict of an object, all of whose keys are checked below."""
    if isinstance(found, TrackedConfig):
        for key in found:
            found.get(key)
    return dict(found or {})


def _one_of(name, found, key, config, older_key, default):
    """The number at `key` of the RoPE object, or at the top level, or the default."""
    values = {f"{name}.{key}": found.get(key), older_key: config.get(older_key)}
    given = {place: value for place, value in values.items() if value is not None}
    if len(set(map(repr, map(_float, given.values())))) > 1:
        raise ValueError(disagreement(given))
    place, value = next(iter(given.items()), (older_key, default))
    return _number(place, value)


def _float(value):
    return float(value) if type(value) is int else value


def _number(name, value):
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r} (expected a number above 0)")
    return float(value)


def _checked(name, value):
    """A value in the type of its field."""
    if name.endswith("truncate"):
        if type(value) is not bool:
            raise ValueError(f"{name}={value!r} (expected true or false)")
        return value
    if name.endswith(("short_factor", "long_factor")):
        if not isinstance(value, list):
            raise ValueError(f"{name}={value!r} (expected a list of numbers)")
        return tuple(_number(name, each) for each in value)
    if name.endswith("position_embeddings"):
        return int(_number(name, value))
    return _number(name, value)


def _yarn_attention(name, found):
    """yarn's attention factor, given or from mscale and mscale_all_dim; 0.0: the paper's."""
    factors = [found.get("mscale"), found.get("mscale_all_dim")]
    if found.get("attention_factor") is not None or not all(factors):
        return found.get("attention_factor")
    scales = [0.1 * _number(f"{name}.mscale", each) for each in factors]
    growth = math.log(max(_number(f"{name}.factor", found.get("factor")), 1.0))
    return (scales[0] * growth + 1) / (scales[1] * growth + 1)

"""Adapters: small sets of trained parameters beside the frozen ones of the model.
`AdaptedModel` (models/adapted_model.py) applies a model with one. The adapter intercepts the calls of layers
(`flax.linen.intercept_methods`) and changes their activations, so no full-size weight update is made."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from models.config import ModelConfig, option
from models.layers import ACTIVATIONS, dense_product

ADAPTER_KEY = (
    "adapter"  # top-level key of the parameter tree; below it, paths mirror the model's modules
)


def modules_of(params) -> dict[str, dict]:
    """{module path: {'lora_a/kernel': array, ...}} of params['adapter']. The last two
    names of a path are the adapter's own."""
    modules = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        modules.setdefault("/".join(path[:-2]), {})["/".join(path[-2:])] = leaf
    return modules


def module_adapter_params(module: nn.Module) -> dict[str, jax.Array]:
    """{'lora_a/kernel': array, ...}: the adapter parameters of one module, from the
    Flax collection ADAPTER_KEY; {} if it has none."""
    return modules_of(module.variables.get(ADAPTER_KEY, {})).get("", {})


@dataclass(frozen=True)
class Adapter:
    """The interface of adapters, and the case without one: everything except config.freeze is trained."""

    name = "none"
    num_added_positions = 0  # positions that the adapter inserts before the text
    num_leading_keys = 0  # keys that the adapter prepends in each attention layer
    not_merged_because = ""  # why it cannot be merged into the weights; "": it can

    def init(self, rng: jax.Array, params: dict, config: ModelConfig) -> dict:
        """Initial params['adapter'], which may depend on the model's `params`; config: of the model."""
        arrays = {}
        for number, (module, leaves) in enumerate(sorted(self.adapted_modules(params).items())):
            for name, leaf in self.init_module(jax.random.fold_in(rng, number), leaves).items():
                arrays[(*module.split("/"), *name.split("/"))] = leaf
        return traverse_util.unflatten_dict(arrays)

    def adapted_modules(self, params: dict) -> dict[str, dict]:
        """{module path: argument of `init_module`} of each module that the adapter changes: its
        parameters, or their sizes. Raises ValueError if a config field matches no module."""
        return {}

    def init_module(self, rng: jax.Array, leaves: dict) -> dict[str, jax.Array]:
        """{'lora_a/kernel': array, ...}: the adapter of one module, from its entry in `adapted_modules`."""
        raise NotImplementedError

    def trains(self, path: str) -> bool:
        """Whether an adapter trains this parameter; not called without an adapter."""
        return path.startswith(f"{ADAPTER_KEY}/")

    def check(self, config: ModelConfig, length: int) -> None:
        """Raises ValueError if the adapter does not fit sequences of `length` tokens."""

    def interceptor(self, params: dict, config: ModelConfig):
        """A function for `nn.intercept_methods`, for params['adapter']."""

        def intercept(next_fun, args, kwargs, context):
            is_call = context.method_name == "__call__"
            adapter_params = module_adapter_params(context.module) if is_call else {}
            if not adapter_params:
                return next_fun(*args, **kwargs)
            return self.call(context.module, adapter_params, next_fun, *args, **kwargs)

        return intercept

    def call(self, module: nn.Module, adapter_params: dict, next_fun, *args, **kwargs) -> jax.Array:
        """The output of a module with `adapter_params`; next_fun computes the output without them."""
        raise NotImplementedError

    def merge(self, leaves: dict, adapter_params: dict) -> dict:
        """The module's parameters {'kernel': ..., 'bias': ...} with the adapter merged in."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainableAdapter(Adapter):
    """Base class of the adapters: trains the adapter, the head of the task, and `modules_to_save` only."""

    modules_to_save: tuple = option(
        (),
        "regexes of the paths of other parameters that are trained and saved too, such as '.*_norm/scale' "
        "(PEFT names modules, not parameters)",
    )


def matching_dense_layers(params, patterns, field):
    """{module path: its parameters} of the dense layers in encoder/ and decoder/ whose path a regex matches.

    Raises ValueError, naming `field`, for an invalid regex and for one without a match."""
    modules = {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        module, _, name = path.rpartition("/")
        if path.startswith(("encoder/", "decoder/")):
            modules.setdefault(module, {})[name] = leaf
    modules = {module: leaves for module, leaves in modules.items() if "kernel" in leaves}
    selected = {}
    for pattern in patterns:
        try:
            matched = [module for module in modules if re.fullmatch(pattern, module)]
        except re.error as error:
            raise ValueError(
                f"adapter.{field}: {pattern!r} is not a regular expression: {error}"
            ) from error
        if not matched:
            raise ValueError(
                f"adapter.{field}: {pattern!r} matches no module of the model; their paths look like "
                f"{next(iter(sorted(modules)), 'encoder/layer_0/self_attention/query')!r}"
            )
        selected |= {module: modules[module] for module in matched}
    return selected


@dataclass(frozen=True)
class LoRA(TrainableAdapter):
    """Low-rank adaptation (Hu et al. 2021): y = x W + s dropout(x) A B with s = alpha / rank.

    A [in, rank] is uniform in +- 1 / sqrt(in) and B [rank, out] is 0, so that training starts from the
    pretrained function. DoRA (Liu et al. 2024) also trains the norm m [out] of each column of the
    weight: y = m / |W + s A B| (x W + s x A B), and no gradient flows through the norm (section 4.3).
    """

    name = "lora"
    target_modules: tuple = option(
        (r".*/(query|value)",),
        "regexes of the layers, such as '.*/self_attention/.*' or '.*/mlp/in'",
    )
    rank: int = option(8, "columns of A and rows of B", min=1)
    alpha: float = option(16.0, "the update is multiplied by alpha / rank", min=0.0)
    dropout_rate: float = option(0.0, "dropout of the input of A", min=0.0, max=0.99)
    use_rslora: bool = option(False, "multiply by alpha / sqrt(rank) (Kalajdzievski 2023)")
    use_dora: bool = option(False, "train the norm of each column too (DoRA)")

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)

    def adapted_modules(self, params):
        return matching_dense_layers(params, self.target_modules, "target_modules")

    def init_module(self, rng, leaves):
        fan_in, fan_out = leaves["kernel"].shape
        bound = fan_in**-0.5
        a = jax.random.uniform(rng, (fan_in, self.rank), jnp.float32, -bound, bound)
        adapter_params = {
            "lora_a/kernel": a,
            "lora_b/kernel": jnp.zeros((self.rank, fan_out), jnp.float32),
        }
        if self.use_dora:
            adapter_params["magnitude/scale"] = jnp.linalg.norm(leaves["kernel"], axis=0)
        return adapter_params

    def call(self, module, adapter_params, next_fun, x):
        y, kept = next_fun(x), x
        if self.dropout_rate and module.has_rng("dropout"):
            keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - self.dropout_rate, x.shape)
            kept = jnp.where(keep, x / (1 - self.dropout_rate), jnp.zeros_like(x))
        update = dense_product(
            dense_product(kept, adapter_params["lora_a/kernel"]), adapter_params["lora_b/kernel"]
        )
        update = update * self.scale
        if self.use_dora:
            leaves = module.variables["params"]
            norm = jax.lax.stop_gradient(self._norm(leaves["kernel"], adapter_params))
            ratio = (adapter_params["magnitude/scale"] / norm).astype(x.dtype).reshape(_last(x))
            bias = leaves["bias"].astype(x.dtype).reshape(_last(x)) if "bias" in leaves else 0.0
            return (y - bias + update) * ratio + bias
        return y + update

    def _norm(self, kernel, adapter_params):
        """|W + s A B| of each column, float32[out], from products with the thin A and B alone."""
        a, b = adapter_params["lora_a/kernel"], adapter_params["lora_b/kernel"]
        mixed, square = ((a.T @ kernel) * b).sum(0), ((a.T @ a @ b) * b).sum(0)
        squares = jnp.square(kernel).sum(0) + 2 * self.scale * mixed + self.scale**2 * square
        return jnp.sqrt(jnp.maximum(squares, 1e-30))

    def merge(self, leaves, adapter_params):
        kernel = leaves["kernel"] + self.scale * (
            adapter_params["lora_a/kernel"] @ adapter_params["lora_b/kernel"]
        )
        if self.use_dora:
            kernel = (
                kernel * (adapter_params["magnitude/scale"] / jnp.linalg.norm(kernel, axis=0))[None]
            )
        return {**leaves, "kernel": kernel}


def _last(x):
    """The shape of an array that is broadcast along the last axis of x."""
    return (1,) * (x.ndim - 1) + (-1,)


@dataclass(frozen=True)
class IA3(TrainableAdapter):
    """(IA)^3 (Liu et al. 2022): keys, values and the hidden states of the MLP are rescaled by vectors.

    The vectors are 1 at the start. `target_modules` are rescaled at their output, `feedforward_modules`
    at their input."""

    name = "ia3"
    target_modules: tuple = option(
        (r".*/(key|value)",), "regexes of layers, rescaled at their output"
    )
    feedforward_modules: tuple = option(
        (r".*/mlp/out",),
        "regexes of layers, rescaled at their input; they must not match any of target_modules (in PEFT they "
        "are a subset of them)",
    )

    def adapted_modules(self, params):
        outputs = matching_dense_layers(params, self.target_modules, "target_modules")
        inputs = matching_dense_layers(params, self.feedforward_modules, "feedforward_modules")
        if both := sorted(outputs.keys() & inputs.keys()):
            raise ValueError(
                f"adapter.target_modules and adapter.feedforward_modules both match {both[0]!r}; choose "
                f"one for each layer"
            )
        sizes = {
            module: {"output": leaves["kernel"].shape[1]} for module, leaves in outputs.items()
        }
        return sizes | {m: {"input": leaves["kernel"].shape[0]} for m, leaves in inputs.items()}

    def init_module(self, rng, leaves):
        return {f"{side}/scale": jnp.ones(size, jnp.float32) for side, size in leaves.items()}

    def call(self, module, adapter_params, next_fun, x):
        if "input/scale" in adapter_params:
            return next_fun(x * adapter_params["input/scale"].astype(x.dtype).reshape(_last(x)))
        return next_fun(x) * adapter_params["output/scale"].astype(x.dtype).reshape(_last(x))

    def merge(self, leaves, adapter_params):
        if "input/scale" in adapter_params:
            return {**leaves, "kernel": leaves["kernel"] * adapter_params["input/scale"][:, None]}
        return {
            name: leaf * adapter_params["output/scale"].reshape(_last(leaf))
            for name, leaf in leaves.items()
        }


@dataclass(frozen=True)
class BitFit(TrainableAdapter):
    """Only the biases of the model are trained (Zaken et al. 2022), and the head of the task."""

    name = "bitfit"

    def trains(self, path):
        return path.endswith("/bias")


@dataclass(frozen=True)
class Bottleneck(TrainableAdapter):
    """Bottleneck adapters: h + up(act(down(h))) on the output h of a sublayer, before it is added to the
    residual stream: of each sublayer (Houlsby et al. 2019), or of the MLP alone (after Pfeiffer et al.
    2021). `up` is 0 at the start."""

    name = "bottleneck"
    size: int = option(64, "size of the bottleneck", min=1)
    activation: str = option("gelu", "activation of the bottleneck", choices=tuple(ACTIVATIONS))
    placement: str = option(
        "houlsby", "after each sublayer, or after the MLP", choices=("houlsby", "pfeiffer")
    )
    not_merged_because = "a bottleneck is a layer of its own"

    def adapted_modules(self, params):
        sublayers = "mlp" if self.placement == "pfeiffer" else "mlp|self_attention|cross_attention"
        outputs = matching_dense_layers(params, (rf".*/({sublayers})/out",), "placement")
        return {module.rpartition("/")[0]: leaves for module, leaves in outputs.items()}

    def init_module(self, rng, leaves):
        features = leaves["kernel"].shape[1]
        down = 0.01 * jax.random.normal(rng, (features, self.size), jnp.float32)
        return {
            "down/kernel": down,
            "down/bias": jnp.zeros(self.size, jnp.float32),
            "up/kernel": jnp.zeros((self.size, features), jnp.float32),
            "up/bias": jnp.zeros(features, jnp.float32),
        }

    def call(self, module, adapter_params, next_fun, *args, **kwargs):
        h = next_fun(*args, **kwargs)

        def dense(name, x):
            bias = adapter_params[f"{name}/bias"].astype(x.dtype).reshape(_last(x))
            return dense_product(x, adapter_params[f"{name}/kernel"]) + bias

        return h + dense("up", ACTIVATIONS[self.activation](dense("down", h)))

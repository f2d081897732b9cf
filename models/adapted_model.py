"""A model with an adapter, which tasks apply like any other model, and the table of all adapters."""

from dataclasses import dataclass

from flax import linen as nn

from models.adapters import ADAPTER_KEY, IA3, Adapter, BitFit, Bottleneck, LoRA
from models.config import ModelConfig
from models.virtual_tokens import PrefixTuning, PromptTuning

ADAPTERS = {
    kind.name: kind for kind in (Adapter, LoRA, IA3, BitFit, Bottleneck, PromptTuning, PrefixTuning)
}


@dataclass(frozen=True)
class AdaptedModel:
    """A model that computes with params['adapter'], if it is there. Hashable, like a linen module."""

    model: nn.Module
    adapter: Adapter

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def init(self, *args, **kwargs):
        """The variables of the model alone; `Adapter.init` makes the adapter's."""
        return self.model.init(*args, **kwargs)

    def apply(self, variables, *args, **kwargs):
        """As `nn.Module.apply`."""
        params = dict(variables["params"])
        adapter_params = params.pop(ADAPTER_KEY, None)
        variables = {**variables, "params": params}
        if adapter_params is None:
            return self.model.apply(variables, *args, **kwargs)
        variables[ADAPTER_KEY] = adapter_params  # where each module finds its part
        with nn.intercept_methods(self.adapter.interceptor(adapter_params, self.config)):
            return self.model.apply(variables, *args, **kwargs)

"""The key-value cache: `prefill` reads prompts, then each `decode_step` reads one token per row.
The prefill is the ordinary forward pass; Attention keeps its keys and values for it.
All rows use the same slots, so prompts of different lengths are padded on the left.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from models.inputs import ModelInputs

# Flax collections that the prefill writes, and that decode steps use.
PREFILL, CACHE = "prefill", "cache"
# The variable in them: (key, value) of an Attention, ModelInputs of a TransformerStack.
CACHED = "cached"


@struct.dataclass
class CacheSlots:
    """Positions and visibility of the tokens in a cache of capacity C. The tokens of a row are numbered from
    0, padding included; a layer with S slots keeps token i in slot i mod S, so it holds the last S of them.

    Generated tokens continue the last segment of their row, the only one that they attend to.
    """

    visible: jax.Array  # bool[B,C]  token i of the row belongs to the continued segment
    index: jax.Array  # int32[]  number of the next token
    positions: jax.Array  # int32[B]  position of the next token in its segment
    encoder_visible: jax.Array | None = None  # bool[B,S]  what cross-attention reads

    @property
    def capacity(self) -> int:
        """C, the maximum number of tokens in a row."""
        return self.visible.shape[1]

    def size(self, window: int) -> int:
        """S of a layer with this sliding window (0: no limit)."""
        return min(window, self.capacity) if window else self.capacity

    def distances(self, size: int) -> jax.Array:
        """int32[S]: for each slot, the distance from its token to the next token (0 for the slot of the next
        token); greater than `index` if the slot is empty."""
        return jnp.mod(self.index - jnp.arange(size, dtype=jnp.int32), jnp.int32(size))

    def mask(self, size: int) -> jax.Array:
        """bool[B,1,S]: the slots that the next token attends to, its own included."""
        numbers = self.index - self.distances(size)
        visible = jnp.take(self.visible, jnp.maximum(numbers, 0), axis=1)
        return (visible & (numbers >= 0)[None])[:, None]

    def write(self, cached: jax.Array, new: jax.Array) -> jax.Array:
        """Writes the next token's new[B,1,G,K] into its slot of the packed keys or values `cached`."""
        size, zero = cached.shape[-2], jnp.int32(0)
        new = pack(new.transpose(0, 2, 1, 3).astype(cached.dtype))
        start = [zero] * (cached.ndim - 2) + [jnp.mod(self.index, jnp.int32(size)), zero]
        return jax.lax.dynamic_update_slice(cached, new, start)

    def advance(self) -> "CacheSlots":
        """After the next token."""
        one = jnp.int32(1)
        return self.replace(index=self.index + one, positions=self.positions + one)


def pack(x: jax.Array) -> jax.Array:
    """x[B,G,S,K], without its batch axis if B is 1: XLA drops an axis of size 1 in products, and would then
    copy the whole cache in each step."""
    return x[0] if len(x) == 1 else x


def unpack(x: jax.Array) -> jax.Array:
    """[B,G,S,K] of a packed array."""
    return x[None] if x.ndim == 3 else x


@struct.dataclass
class Cache:
    """Packed keys and values as Flax has them, {stack: {layer: {attention: {"cached": (keys, values)}}}}, and
    their slots. The keys and values of cross-attention come from the encoder's output and do not change."""

    layers: dict
    slots: CacheSlots

    def take(self, rows: jax.Array) -> "Cache":
        """The cache of these rows int32[R], which may repeat."""
        slots = self.slots
        visible = None if slots.encoder_visible is None else slots.encoder_visible[rows]
        slots = slots.replace(
            visible=slots.visible[rows], positions=slots.positions[rows], encoder_visible=visible
        )
        layers = jax.tree.map(lambda x: pack(unpack(x)[rows]), self.layers)
        return Cache(layers, slots)

    def reorder(self, rows: jax.Array) -> "Cache":
        """`take` for beam search. Each row moves among the beams of its prompt, so slots and cross-attention
        stay as they are."""

        def reordered(x):
            return pack(unpack(x)[rows])

        def of_layer(attentions):
            return {
                name: pair if name == "cross_attention" else jax.tree.map(reordered, pair)
                for name, pair in attentions.items()
            }

        layers = {
            stack: {name: of_layer(attentions) for name, attentions in modules.items()}
            for stack, modules in self.layers.items()
        }
        return self.replace(layers=layers)


def sow_for_cache(module: nn.Module, value) -> None:
    """Keeps a value of the forward pass for `prefill`; in training and in `init` it does nothing."""
    if not module.is_initializing():
        module.sow(PREFILL, CACHED, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)


def prefill(
    model, params, inputs: ModelInputs, decoder_inputs: ModelInputs | None = None, *, capacity: int
) -> tuple[jax.Array, Cache]:
    """Reads prompts [B,T]: (hidden [B,T,D] of all their tokens, a cache for `capacity` tokens).

    Prompts are padded on the left; the segment of the last token is continued. The prompt of an
    encoder-decoder is `decoder_inputs`, and the encoder reads `inputs`. `capacity` includes the prompt and
    the virtual tokens of an adapter. Raises ValueError if the prompt is longer.
    """
    arguments = (inputs,) if decoder_inputs is None else (inputs, decoder_inputs)
    hidden, state = model.apply({"params": params}, *arguments, mutable=[PREFILL])
    cached = state[PREFILL]
    prompt, encoder_visible = cached["decoder"].pop(CACHED), None
    length, segment = prompt.tokens.shape[1], prompt.segment_ids[:, -1:]
    if length > capacity:
        raise ValueError(f"a prompt of {length} tokens with a cache for {capacity}: raise capacity")
    if decoder_inputs is not None:
        encoder_visible = cached["encoder"].pop(CACHED).segment_ids == segment
    slots = CacheSlots(
        jnp.pad(
            prompt.segment_ids == segment, ((0, 0), (0, capacity - length)), constant_values=True
        ),
        jnp.int32(length),
        prompt.positions[:, -1] + jnp.int32(1),
        encoder_visible,
    )
    layers = {}
    for stack, modules in cached.items():
        for name, attentions in modules.items():
            number = int(name.removeprefix("layer_"))
            size = slots.size(model.config.sliding_window_at(number))
            for attention, keys_values in attentions.items():
                if stack == "encoder" and not model.config.share_encoder_decoder:
                    continue
                cross = attention == "cross_attention"
                pair = (
                    pack(x.transpose(0, 2, 1, 3) if cross else _to_slots(x, size))
                    for x in keys_values[CACHED]
                )
                of_layer = layers.setdefault(stack, {}).setdefault(name, {})
                of_layer[attention] = {CACHED: tuple(pair)}
    return hidden, Cache(layers, slots)


def _to_slots(x, size):
    """[B,T,G,K] -> [B,G,S,K]: the last S tokens, token i in slot i mod S."""
    length, x = x.shape[1], x.transpose(0, 2, 1, 3)
    if length <= size:
        return jnp.pad(x, ((0, 0), (0, 0), (0, size - length), (0, 0)))
    return jnp.roll(x[:, :, -size:], length % size, axis=2)


def decode_step(model, params, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Reads the next token int32[B,1] of each row: (hidden [B,1,D], the cache with it).

    A token beyond the capacity overwrites the oldest one: the caller limits the steps.
    """
    slots = cache.slots
    inputs = ModelInputs(
        tokens=tokens,
        segment_ids=jnp.ones_like(tokens),
        positions=slots.positions[:, None],
        attention="causal",
    )
    variables = {"params": params, CACHE: cache.layers}
    hidden, state = model.apply(variables, inputs, slots, method="decode_step", mutable=[CACHE])
    return hidden, Cache(state[CACHE], slots.advance())

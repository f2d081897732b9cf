"""SentencePiece models (spiece.model, tokenizer.model) as tokenizers of the `tokenizers` library.

Below huggingface/older_tokenizers.py. The `sentencepiece` package reads the file.
"""

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"


def read_spm(
    data: bytes, extra: tuple[str, ...] = (), fairseq: bool = False
) -> tokenizers.Tokenizer:
    """The tokenizer of a serialized SentencePiece model, without a post-processor.

    Control tokens and the unknown token become special tokens. `extra` tokens follow the vocabulary,
    such as T5's <extra_id_99> to <extra_id_0>. With `fairseq` (XLM-RoBERTa), <s>, <pad>, </s> and <unk>
    replace the file's <unk>, <s> and </s>, so that the ids of the others grow by one, and <mask> is the
    last. Raises ValueError for an unsupported model.
    """
    from sentencepiece import sentencepiece_model_pb2  # only these files need it

    proto = sentencepiece_model_pb2.ModelProto.FromString(data)
    trainer, normalizer, types = proto.trainer_spec, proto.normalizer_spec, proto.SentencePiece
    tokens = [(each.piece, each.score, each.type) for each in proto.pieces]
    if not tokens:
        raise ValueError("its vocabulary is empty")
    if trainer.model_type not in (trainer.UNIGRAM, trainer.BPE):
        name = trainer.ModelType.Name(trainer.model_type)
        raise ValueError(f"its model type is {name}, expected UNIGRAM or BPE")
    if not normalizer.escape_whitespaces or trainer.treat_whitespace_as_suffix:
        raise ValueError("whitespace that is not escaped or is a suffix is not supported")
    if fairseq:
        first = [text for text, _, _ in tokens[:3]]
        if first != ["<unk>", "<s>", "</s>"]:
            raise ValueError(f"it begins with {first}, expected <unk>, <s>, </s>")
        types_of = {"<pad>": types.NORMAL, "<unk>": types.UNKNOWN}
        start = ("<s>", "<pad>", "</s>", "<unk>")
        tokens = [
            *((text, 0.0, types_of.get(text, types.CONTROL)) for text in start),
            *tokens[3:],
            ("<mask>", 0.0, types.NORMAL),
        ]
    known = {text for text, _, _ in tokens}
    tokens += [(text, 0.0, types.CONTROL) for text in extra if text not in known]
    unknown = next((i for i, (_, _, kind) in enumerate(tokens) if kind == types.UNKNOWN), None)
    if unknown is None:
        raise ValueError("it has no unknown token")

    charsmap, prefix = normalizer.precompiled_charsmap, normalizer.add_dummy_prefix
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    if normalizer.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
        scheme = "always" if prefix else "never"
    else:  # leading spaces count, and the prefix is one more
        steps += [normalizers.Prepend(SPACE)] if prefix else []
        steps.append(normalizers.Replace(" ", SPACE))
        scheme = "never"
    if trainer.model_type == trainer.UNIGRAM:
        scores = [(text, score) for text, score, _ in tokens]
        inner = tokenizers.Tokenizer(models.Unigram(scores, unknown, trainer.byte_fallback))
        # Tokens do not cross spaces, so each word can be tokenized on its own.
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    else:
        mergeable = {
            text: (number, score)
            for number, (text, score, kind) in enumerate(tokens)
            if kind in (types.NORMAL, types.UNUSED)
        }
        model = models.BPE(
            {text: number for number, (text, _, _) in enumerate(tokens)},
            _merges(mergeable),
            unk_token=tokens[unknown][0],
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
        inner = tokenizers.Tokenizer(model)
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    if steps:
        inner.normalizer = normalizers.Sequence(steps)
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    inner.add_tokens(
        [
            tokenizers.AddedToken(text, normalized=False, special=kind != types.USER_DEFINED)
            for text, _, kind in tokens
            if kind in (types.UNKNOWN, types.CONTROL, types.USER_DEFINED)
        ]
    )
    return inner


def _merges(tokens: dict[str, tuple[int, float]]) -> list[tuple[str, str]]:
    """BPE merges in order: SentencePiece first merges the pair whose union has the highest score."""
    found = []
    for text, (_, score) in tokens.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in tokens and right in tokens:
                found.append((-score, tokens[left][0], tokens[right][0], left, right))
    return [(left, right) for *_, left, right in sorted(found)]

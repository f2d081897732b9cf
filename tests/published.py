"""Small Hugging Face directories with tokenizers as others publish them, written by the tests."""

import json

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.implementations import BertWordPieceTokenizer

from huggingface import convert, param_shapes
from huggingface.families import FAMILIES
from huggingface.tokenizers import read_tokenizer
from models import presets
from models.config import ModelConfig
from training import checkpoint, param_rules, run_directory

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "  Two  blanks, an unknown \u6f22 and Zürich's café!  ",
    "lower and the lowest: newest widest, 123 + 45",
    "hello",
]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "low", "lower", "lowest",
         "new", "newest", "wide", "widest", "hello"]  # fmt: skip


def wordpiece(folder, **settings):
    """BERT's vocab.txt with tokenizer_config.json; returns the library's tokenizer of the same files."""
    tokens = ["[PAD]", *(f"[unused{i}]" for i in range(3)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(i) for i in (*range(33, 127), 252, 233)]
    tokens += [*letters, *(f"##{letter}" for letter in letters), *WORDS, "##est", "##er", "Zürich"]
    tokens = list(dict.fromkeys(tokens))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0}))
    lower = settings.get("do_lower_case", True)
    return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lower)


def byte_level(folder, model_type="gpt2"):
    """vocab.json and merges.txt of GPT-2, or of RoBERTa; returns the trained tokenizer."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>"]
    if model_type == "roberta":
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(TEXTS * 3 + WORDS * 5, trainer)
    inner.model.save(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return inner


def sentencepiece(folder, tokens, algorithm=1, name="spiece.model", model_type="t5", **options):
    """A SentencePiece model of tokens (text, score, type); returns its bytes.

    Args:
      algorithm: 1 for Unigram, 2 for BPE.
      **options: bytes (byte fallback), dummy (dummy prefix), collapse (extra whitespace).
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    for text, score, kind in tokens:
        proto.pieces.add(piece=text, score=score, type=kind)
    proto.trainer_spec.model_type = algorithm
    proto.trainer_spec.byte_fallback = options.pop("bytes", False)
    fields = {"dummy": "add_dummy_prefix", "collapse": "remove_extra_whitespaces"}
    for option, value in options.items():
        setattr(proto.normalizer_spec, fields[option], bool(value))
    data = proto.SerializeToString()
    (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return data


def unigram_pieces():
    """(text, score, type) in T5's order: padding, end, unknown, then words and letters."""
    words = {"▁the": -2.0, "▁quick": -3.0, "▁low": -3.0, "er": -3.5, "est": -3.5, "▁": -4.0}
    letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyz.,T</>", -6.0)
    return [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2),
            *((text, score, 1) for text, score in (words | letters).items())]  # fmt: skip


def bpe_pieces():
    """(text, score, type) in Llama's order: unknown, start, end, bytes, merges by falling score,
    letters."""
    merged = ["▁t", "he", "▁the", "lo", "▁lo", "▁low", "er", "▁lower"]
    letters = "▁etaoinshrdlucmfwypvbgkqjxz.,T"
    return [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3),
            *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
            *((text, -float(rank), 1) for rank, text in enumerate([*merged, *letters]))]  # fmt: skip


def bert(folder, classes=(), seed=0, **tokenizer):
    """A Hugging Face directory of a tiny BERT with its masked-LM head, or with a classifier of
    `classes`."""
    vocabulary = folder / "vocabulary"
    vocabulary.mkdir(parents=True)
    wordpiece(vocabulary, **tokenizer)
    name = "BertForSequenceClassification" if classes else "BertForMaskedLM"
    target = _publish(folder, read_tokenizer(vocabulary), "bert", "bert-tiny", name, classes, seed)
    if classes:
        config = json.loads((target / "config.json").read_text())
        config["id2label"] = {str(number): label for number, label in enumerate(classes)}
        (target / "config.json").write_text(json.dumps(config))
    return target


def gpt2(folder):
    """A Hugging Face directory of a tiny GPT-2, whose tokenizer has no padding token."""
    vocabulary = folder / "vocabulary"
    vocabulary.mkdir(parents=True)
    byte_level(vocabulary)
    return _publish(folder, read_tokenizer(vocabulary), "gpt2", "gpt2", "GPT2LMHeadModel")


def _publish(folder, made, family, preset, name, classes=(), seed=0):
    """Writes a model with random parameters to `folder`/published."""
    shape = {"num_layers": 2, "emb_dim": 32, "num_heads": 2, "mlp_dim": 48, "max_length": 40}
    model = ModelConfig(**presets.preset(preset) | shape | {"vocab_size": made.size + 3})
    tree = param_shapes.of_model(FAMILIES[family], model, len(classes))
    required, _ = param_shapes.of_class(FAMILIES[family], tree, name)
    rng = np.random.default_rng(seed)
    flat = {p: rng.normal(0, 0.3, shape).astype(np.float32) for p, shape in required.items()}
    run = folder / "run"
    run.mkdir()
    checkpoint.write_params(run, 0, param_rules.unflatten_params(flat))
    made.save(run / "tokenizer.json")
    record = {"seed": {}}
    run_directory.write_manifest(run, record, {"labels": list(classes)} if classes else {})
    run_directory.write_config(run, record, "pretrain", model)
    target = folder / "published"
    convert.to_hf(str(run), str(target), architecture=name)
    return target

"""Small tokenizer directories as others publish them, made here without their programs."""

import json
import struct

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.implementations import BertWordPieceTokenizer

from huggingface import convert, shapes
from huggingface.families import FAMILIES
from huggingface.tokenizers import read_tokenizer
from models import presets
from models.config import ModelConfig
from training import checkpoint, rules, run_directory

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "  Two  blanks, an unknown \u6f22 and Zürich's café!  ",
    "lower and the lowest: newest widest, 123 + 45",
    "hello",
]
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "low",
    "lower",
    "lowest",
    "new",
    "newest",
    "wide",
    "widest",
    "hello",
]


def wordpiece(folder, **settings):
    """BERT's vocab.txt with tokenizer_config.json; returns the independent tokenizer of the library."""
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(3)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(i) for i in (*range(33, 127), 252, 233)]
    pieces += [*letters, *(f"##{letter}" for letter in letters), *WORDS, "##est", "##er", "Zürich"]
    pieces = list(dict.fromkeys(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0}))
    lower = settings.get("do_lower_case", True)
    return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lower)


def byte_level(folder, kind="gpt2"):
    """vocab.json and merges.txt of GPT-2, or of RoBERTa; returns the trained tokenizer."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>"] if kind == "gpt2" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(TEXTS * 3 + WORDS * 5, trainer)
    inner.model.save(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return inner


def sentencepiece(folder, pieces, algorithm=1, name="spiece.model", kind="t5", **options):
    """A SentencePiece model of pieces (text, score, kind), in the bytes of its protobuf."""
    data = b"".join(
        _field(
            1, _field(1, text.encode()) + _field(2, struct.pack("<f", score), 5) + _field(3, what)
        )
        for text, score, what in pieces
    )
    data += _field(2, _field(3, algorithm) + _field(35, int(options.pop("bytes", False))))
    data += _field(3, b"".join(_field(number, value) for number, value in options.items()))
    (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return data


def _field(number, value, kind=None):
    number = {"dummy": 3, "collapse": 4}.get(number, number)
    if kind is None:
        kind = 0 if isinstance(value, int) else 2
    head = _varint(number << 3 | kind)
    return head + (
        _varint(value) if kind == 0 else value if kind == 5 else _varint(len(value)) + value
    )


def _varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def unigram_pieces():
    """T5's order: pad, eos, unk, then what text is cut into."""
    words = [
        ("▁the", -2.0),
        ("▁quick", -3.0),
        ("▁low", -3.0),
        ("er", -3.5),
        ("est", -3.5),
        ("▁", -4.0),
    ]
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz.,T</>"]
    return [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2),
            *((text, score, 1) for text, score in words + letters)]  # fmt: skip


def bpe_pieces():
    """Llama's order: unk, bos, eos, bytes, merges by falling score, letters."""
    merged = ["▁t", "he", "▁the", "lo", "▁lo", "▁low", "er", "▁lower"]
    letters = "▁etaoinshrdlucmfwypvbgkqjxz.,T"
    return [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3),
            *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
            *((text, -float(rank), 1) for rank, text in enumerate([*merged, *letters]))]  # fmt: skip


def bert(folder, classes=(), seed=0, **tokenizer):
    """A whole directory of a tiny BERT with its masked-LM head, or with a classifier of `classes`."""
    words = folder / "words"
    words.mkdir(parents=True)
    wordpiece(words, **tokenizer)
    made = read_tokenizer(words)
    fields = presets.preset("bert-tiny") | {"layers": 2, "width": 32, "heads": 2, "mlp_size": 48}
    model = ModelConfig(**fields | {"vocab_size": made.size + 3, "max_length": 40})
    name = "BertForSequenceClassification" if classes else "BertForMaskedLM"
    tree = shapes.of_network(FAMILIES["bert"], model, len(classes))
    must, _ = shapes.of_class(FAMILIES["bert"], tree, name)
    random = np.random.default_rng(seed)
    flat = {path: random.normal(0, 0.3, shape).astype(np.float32) for path, shape in must.items()}
    run = folder / "run"
    run.mkdir()
    checkpoint.write_params(run, 0, rules.merge(flat, {}))
    made.save(run / "tokenizer.json")
    record = {"seed": {}}
    run_directory.write_manifest(run, record, {"labels": list(classes)} if classes else {})
    run_directory.record_run(run, record, "pretrain", model)
    target = folder / "published"
    convert.to_hf(str(run), str(target), architecture=name)
    if classes:
        config = json.loads((target / "config.json").read_text())
        config["id2label"] = {str(number): label for number, label in enumerate(classes)}
        (target / "config.json").write_text(json.dumps(config))
    return target

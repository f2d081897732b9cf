"""Ids of AutoTokenizer for every form of a directory, or a refusal that names file and key."""

import functools
import json

import pytest
import sentencepiece as spm
from published import (
    TEXTS,
    WORDS,
    bpe_pieces,
    byte_level,
    sentencepiece,
    unigram_pieces,
    wordpiece,
)  # fmt: skip
from tokenizers import AddedToken, Tokenizer, models, normalizers

from data import tokenizer as tokenizer_module
from huggingface.tokenizers import read_tokenizer, write_tokenizer
from training.config import ConfigError

transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install -e .[parity]"
)

pytestmark = pytest.mark.parity

HARD = [
    "a\tb\nc  d",
    " lead",
    "trail ",
    "HeLLo CAFÉ 漢字",
    "▁x",
    "",
    " ",
    "x\xa0y",
    "don't <b> [X]",
    "e\u0301",
]


def as_json(write, *removed):
    """The directory of `write` with a tokenizer.json in place of its other files."""

    def make(folder):
        write(folder).save(str(folder / "tokenizer.json"))
        for name in removed:
            (folder / name).unlink()

    return make


def saved(write, name):
    """The directory of `write` as a class of transformers saves it."""

    def make(folder):
        write(folder)
        getattr(transformers, name).from_pretrained(folder).save_pretrained(folder)
        for file in ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"):
            (folder / file).unlink(missing_ok=True)

    return make


def t5(folder):
    sentencepiece(folder, unigram_pieces(), dummy=1, collapse=1)


def llama(folder):
    sentencepiece(folder, bpe_pieces(), 2, "tokenizer.model", "llama", bytes=True, collapse=0)


def gemma(folder):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += [*"▁abcdefghijklmnopqrstuvwxyzTHLC.,", "▁t", "he", "▁the", "▁▁"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "▁")]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    inner.add_special_tokens(tokens[:5])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "gemma"}')


def xlm_roberta(folder):
    pieces = [(text, score) for text, score, _ in unigram_pieces()[3:]]
    tokens = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [*((token, 0.0) for token in tokens), *pieces, ("<mask>", 0.0)]
    inner = Tokenizer(models.Unigram(vocabulary, 3))
    inner.normalizer = normalizers.Lowercase()  # which the class does not keep
    inner.add_special_tokens([*tokens, AddedToken("<mask>", lstrip=True)])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "xlm-roberta"}')


def trained(folder, name, of, **options):
    """A SentencePiece model alone, trained on the texts below."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join((TEXTS + WORDS) * 20), encoding="utf-8")
    spm.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "trained"), vocab_size=90, minloglevel=2,
        hard_vocab_limit=False, **options,
    )  # fmt: skip
    (folder / "trained.model").rename(folder / name)
    (folder / "config.json").write_text(json.dumps({"model_type": of}))


def xlm_roberta_spm(folder, symbols=("<b>",)):
    trained(folder, "sentencepiece.bpe.model", "xlm-roberta", user_defined_symbols=list(symbols))


def t5_bpe(folder, name="tokenizer.model"):
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    trained(folder, name, "t5", model_type="bpe", **ids)


def added(number, text, **flags):
    names = ("lstrip", "rstrip", "normalized", "single_word", "special")
    return {str(number): {"content": text, **dict.fromkeys(names, False), **flags}}


roberta = functools.partial(byte_level, model_type="roberta")
bert_json = as_json(wordpiece, "vocab.txt")
cased_json = as_json(functools.partial(wordpiece, do_lower_case=False), "vocab.txt")
gpt2_json = as_json(byte_level, "vocab.json", "merges.txt")
MAP, ADDED = "special_tokens_map.json", "added_tokens.json"
LLAMA = {"tokenizer_class": "LlamaTokenizer"}
MASK = added(0, "<mask>", lstrip=True)["0"]
del MASK["special"]
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}
END = "<|endoftext|>"
# name: (how the directory is written, settings of tokenizer_config.json or None, further files)
FORMS = {
    "bert": (wordpiece, None, {}),
    "bert cased": (wordpiece, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}, {}),
    "bert accents": (wordpiece, {"strip_accents": False, "tokenize_chinese_chars": False}, {}),
    "bert other special": (wordpiece, {"unk_token": "[unused1]", "cls_token": "[unused2]"}, {}),
    "bert json": (bert_json, {}, {}),
    "bert json cased, config not": (cased_json, {"do_lower_case": True}, {}),
    "bert json lower, config not": (bert_json, {"do_lower_case": False}, {}),
    "bert json, generic": (bert_json, {**GENERIC, "do_lower_case": False}, {}),
    "bert json, accents": (bert_json, {"strip_accents": False}, {}),
    "distilbert": (bert_json, {"do_lower_case": False, "tokenizer_class": "DistilBertTokenizer"},
                   {"config.json": {"model_type": "distilbert"}}),
    "electra": (wordpiece, {"do_lower_case": False, "tokenizer_class": "ElectraTokenizer"},
                {"config.json": {"model_type": "electra"}}),
    "bert added": (wordpiece, {"added_tokens_decoder": added(219, "<b>", lstrip=True, special=True)}, {}),
    "bert json added": (bert_json, {"added_tokens_decoder": added(219, "<b>", lstrip=True)}, {}),
    "bert older added": (wordpiece, None, {ADDED: {"<b>": 219, "[X]": 220}}),
    "bert older added, special": (wordpiece, {"additional_special_tokens": ["[X]"]}, {ADDED: {"[X]": 219}}),
    "gpt2": (byte_level, None, {}),
    "gpt2 prefix": (byte_level, {"add_prefix_space": True}, {}),
    "gpt2 bos": (byte_level, {"add_bos_token": True}, {}),
    "gpt2 bos and eos": (byte_level, {"add_bos_token": True, "add_eos_token": True}, {}),
    "gpt2 json": (gpt2_json, None, {}),
    "gpt2 json prefix": (gpt2_json, {"add_prefix_space": True}, {}),
    "gpt2 json bos": (gpt2_json, {"add_bos_token": True}, {}),
    "gpt2 json, generic": (gpt2_json, {**GENERIC, "add_prefix_space": True}, {}),
    "gpt2 map wins": (byte_level, {"eos_token": "the"}, {MAP: {"eos_token": END}}),
    "gpt2 stale map": (byte_level, {"eos_token": END, "added_tokens_decoder": added(0, END, special=True)},
                       {MAP: {"eos_token": "!"}}),
    "gpt2 new pad": (byte_level, {"pad_token": "<pad>"}, {}),
    "gpt2 extra": (byte_level, {"additional_special_tokens": ["<b>", "[X]"]}, {}),
    "gpt2 as qwen2": (byte_level, {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END}, {}),
    "roberta": (roberta, None, {}),
    "roberta prefix": (roberta, {"add_prefix_space": True}, {}),
    "roberta json": (as_json(roberta, "vocab.json", "merges.txt"), None, {}),
    "roberta mask with its space": (roberta, None, {MAP: {"mask_token": MASK}}),
    "roberta mask of the config": (roberta, {"mask_token": {"__type": "AddedToken", **MASK}}, {}),
    "roberta json mask": (as_json(roberta, "vocab.json", "merges.txt"), None, {MAP: {"mask_token": MASK}}),
    "roberta extra with flags": (roberta, {"extra_special_tokens": ["<b>"]}, {MAP: {"sep_token": MASK}}),
    "bart": (roberta, {"tokenizer_class": "BartTokenizer"}, {"config.json": {"model_type": "bart"}}),
    "t5": (t5, None, {}),
    "t5 five sentinels": (t5, {"extra_ids": 5}, {}),
    "t5 json": (saved(t5, "T5Tokenizer"), None, {}),
    "llama": (llama, None, {}),
    "llama class": (llama, LLAMA, {}),
    "llama bos": (llama, {**LLAMA, "add_bos_token": True}, {}),
    "llama bos and eos": (llama, {**LLAMA, "add_bos_token": True, "add_eos_token": True}, {}),
    "llama legacy": (llama, {**LLAMA, "legacy": True}, {}),
    "llama without prefix": (llama, {**LLAMA, "add_prefix_space": False}, {}),
    "llama json": (saved(llama, "LlamaTokenizer"), None, {}),
    "llama 3": (gpt2_json, LLAMA, {"config.json": {"model_type": "llama"}}),
    "qwen2": (gpt2_json, {"tokenizer_class": "Qwen2Tokenizer"}, {"config.json": {"model_type": "qwen2"}}),
    "qwen2 of another class": (gpt2_json, LLAMA, {"config.json": {"model_type": "qwen2"}}),
    "qwen3": (gpt2_json, None, {"config.json": {"model_type": "qwen3"}}),
    "gpt_neox": (gpt2_json, {"add_bos_token": True}, {"config.json": {"model_type": "gpt_neox"}}),
    "gpt_neox prefix": (gpt2_json, {"add_prefix_space": True, "pad_token": END},
                        {"config.json": {"model_type": "gpt_neox"}}),
    "gemma": (gemma, None, {}),
    "gemma bos": (gemma, {"add_bos_token": True, "tokenizer_class": "GemmaTokenizer"}, {}),
    "gemma, generic": (gemma, GENERIC, {}),
    "gemma 2": (gemma, None, {"config.json": {"model_type": "gemma2"}}),
    "gemma 3": (gemma, None, {"config.json": {"model_type": "gemma3_text"}}),
    "xlm-roberta": (xlm_roberta, None, {}),
    "xlm-roberta, sentencepiece": (xlm_roberta_spm, None, {}),
    "xlm-roberta, sentencepiece, mask": (
        xlm_roberta_spm, {"mask_token": {"__type": "AddedToken", **MASK}}, {}),
    "xlm-roberta, sentencepiece, extra": (
        functools.partial(xlm_roberta_spm, symbols=()), {"additional_special_tokens": ["[X]"]}, {}),
    "t5 bpe, generic": (t5_bpe, GENERIC, {}),
    "xlm-roberta without prefix": (xlm_roberta, {"add_prefix_space": False}, {}),
    "xlm-roberta, generic": (xlm_roberta, GENERIC, {}),
    "phi3": (saved(llama, "LlamaTokenizer"), LLAMA, {"config.json": {"model_type": "phi3"}}),
    "olmo2": (gpt2_json, {"tokenizer_class": "GPT2Tokenizer"}, {"config.json": {"model_type": "olmo2"}}),
    "mt5": (t5, {"extra_ids": 0}, {"config.json": {"model_type": "mt5"}}),
    "mistral": (llama, LLAMA, {"config.json": {"model_type": "mistral"}}),
    "modernbert": (gpt2_json, {**GENERIC, "unk_token": END},
                   {"config.json": {"model_type": "modernbert"}}),
}  # fmt: skip


def make(folder, form):
    write, settings, files = FORMS[form]
    write(folder)
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    elif write in (wordpiece, bert_json, cased_json):
        (folder / "tokenizer_config.json").unlink()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("form", FORMS)
def test_a_directory_gives_the_ids_of_auto_tokenizer(tmp_path, form):
    make(tmp_path, form)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    for text in [*TEXTS, *WORDS, *HARD]:
        expected = auto(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, specials=True).tolist() == expected, text
    template, middle = ours.template, ours.encode("the fox").tolist()
    if template and (auto("")["input_ids"] or template.prefix):
        middle = [*template.prefix, *middle, *template.suffix]
    assert auto("the fox")["input_ids"] == middle
    assert len(auto) == ours.size
    roles = ours.special_ids()
    for role in ("pad", "unk", "sep", "cls", "mask", "eos"):
        expected = getattr(auto, f"{role}_token_id")
        # Padding that also ends a text is not a padding token here.
        assert expected in (None, roles[role]) or (role == "pad" and roles[role] == -1)
    write_tokenizer(ours, tmp_path / "back", architecture="decoder", head="", max_length=9,
                    token_types=False)  # fmt: skip
    (tmp_path / "back/config.json").write_bytes((tmp_path / "config.json").read_bytes())
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert again("don't <b> [X]")["input_ids"] == auto("don't <b> [X]")["input_ids"]


def test_a_chat_template_works_after_a_round_trip(tmp_path):
    make(tmp_path, "gpt2 json")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    (tmp_path / "run").mkdir()
    read_tokenizer(tmp_path).save(tmp_path / "run/tokenizer.json")
    kept = tokenizer_module.load(tmp_path / "run")
    write_tokenizer(kept, tmp_path / "back", architecture="decoder", head="", max_length=9,
                    token_types=False)  # fmt: skip
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    messages = [{"role": "user", "content": "the fox"}]
    assert auto.apply_chat_template(messages, tokenize=False) == "<user>the fox"


def test_a_class_that_is_not_read_is_refused_by_file_and_key(tmp_path):
    make(tmp_path, "bert json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "AlbertTokenizer"}')
    with pytest.raises(ConfigError, match="tokenizer_config.json has tokenizer_class='AlbertTok"):
        read_tokenizer(tmp_path)


def test_a_sentencepiece_model_of_another_kind_than_its_class_is_refused_by_file_and_key(tmp_path):
    t5_bpe(tmp_path, "spiece.model")
    with pytest.raises(
        ConfigError, match="spiece.model is .* BPE, but T5Tokenizer .*tokenizer_class"
    ):
        read_tokenizer(tmp_path)


def test_a_tokenizer_of_another_kind_than_its_class_is_refused_by_file_and_reason(tmp_path):
    make(tmp_path, "gpt2 json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ConfigError, match="tokenizer.json .* a BPE model, but a BertTokenizer has"):
        read_tokenizer(tmp_path)

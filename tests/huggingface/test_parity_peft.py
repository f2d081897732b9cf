"""PEFT's adapters: ours computes what PEFT does, in both directions, for several families and kinds."""

import json

import numpy as np
import parity
import pytest
import tiny_configs
from test_adapters import logits_of

import finetune
import train
from huggingface import convert, from_peft, to_peft
from training import run_directory
from training.config import ConfigError

torch, transformers = parity.peers()
peft = pytest.importorskip("peft", reason="needs peft: pip install -e .[parity]")

# PEFT uses what transformers deprecates, and warns of configs that it fills in itself.
pytestmark = [
    pytest.mark.parity,
    *map(pytest.mark.filterwarnings, ("ignore::FutureWarning", "ignore::UserWarning")),
]

SPECIAL = {"pad_token_id": 0, "eos_token_id": 4, "bos_token_id": 4, "vocab_size": parity.VOCAB_SIZE}
WIDE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
LLAMA = {**WIDE, "num_key_value_heads": 2}
CONV1D = {"fan_in_fan_out": True}


def lora(*targets, **options):
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), **options)


def ia3(targets, feedforward, **options):
    return peft.IA3Config(
        target_modules=[*targets, feedforward], feedforward_modules=[feedforward], **options
    )


CASES = {
    "bert lora": ("BertForSequenceClassification", WIDE,
                  lambda: lora("query", "value", task_type="SEQ_CLS", modules_to_save=["pooler.dense"])),
    "bert dora": ("BertForMaskedLM", WIDE, lambda: lora("key", "intermediate.dense", use_dora=True)),
    "bert ia3": ("BertForMaskedLM", WIDE, lambda: ia3(["key", "value"], "intermediate.dense")),
    "gpt2 lora": ("GPT2LMHeadModel", GPT2,
                  lambda: lora("c_attn", "mlp.c_fc", task_type="CAUSAL_LM", **CONV1D)),
    "gpt2 dora": ("GPT2LMHeadModel", GPT2, lambda: lora("c_attn", use_dora=True, **CONV1D)),
    "gpt2 ia3": ("GPT2LMHeadModel", GPT2, lambda: ia3(["c_attn"], "mlp.c_proj", **CONV1D)),
    "gpt2 prompt": ("GPT2LMHeadModel", GPT2,
                    lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "gpt2 prefix": ("GPT2LMHeadModel", GPT2,
                    lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "llama prefix": ("LlamaForCausalLM", LLAMA,
                     lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "llama ranks": ("LlamaForCausalLM", LLAMA,
                    lambda: lora("q_proj", "v_proj", "up_proj", rank_pattern={"v_proj": 2},
                                 alpha_pattern={"up_proj": 3}, use_rslora=True, task_type="CAUSAL_LM")),
    "llama dora": ("LlamaForCausalLM", LLAMA, lambda: lora("o_proj", "down_proj", use_dora=True)),
    "neox lora": ("GPTNeoXForCausalLM", WIDE, lambda: lora("query_key_value", task_type="CAUSAL_LM")),
    "t5 lora": ("T5ForConditionalGeneration", T5, lambda: lora("q", "v", "wi", task_type="SEQ_2_SEQ_LM")),
    "t5 ia3": ("T5ForConditionalGeneration", T5, lambda: ia3(["k", "v"], "wo")),
}  # fmt: skip


def randomized(peer):
    """An adapted model of PEFT, all of its own parameters away from their initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in peer.named_parameters():
            if any(part in name for part in ("lora_", "ia3_", "prompt", "modules_to_save")):
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return peer.eval()


def adapted(case, folder):
    """(PEFT's model, its class, directory of the base, directory of the adapter)."""
    name, config, make = CASES[case]
    model_class = getattr(transformers, name)
    labels = {"num_labels": 3} if "Classification" in name else {}
    torch.manual_seed(0)
    peer = parity.randomize(
        model_class(model_class.config_class(**SPECIAL, **config, **labels)), 0.1
    )
    peer.save_pretrained(folder / "base_hf")
    parity.write_tokenizer(folder / "base_hf")
    peer = randomized(peft.get_peft_model(peer, make()))
    peer.save_pretrained(folder / "adapter")
    return peer, model_class, folder / "base_hf", folder / "adapter"


def peer_logits(peer, name):
    """Logits of PEFT's model at the positions of text."""
    arguments = {
        "input_ids": torch.from_numpy(parity.TOKENS).long(),
        "attention_mask": torch.from_numpy(parity.FULL_MASK).long(),
    }
    if "ConditionalGeneration" in name:
        arguments["labels"] = torch.from_numpy(parity.TARGETS).long()
    logits = (
        peer(**arguments, use_cache=False).logits
        if "GPT2" not in name
        else peer(**arguments).logits
    )
    is_prompt = logits.ndim == 3 and logits.shape[1] == parity.LENGTH + 3
    return logits[:, 3:] if is_prompt else logits


def our_logits(run, name):
    native = parity.NativeModel.load(run)
    if "Classification" in name:
        lengths = parity.FULL_MASK.sum(1).astype(np.int32)
        needs = run_directory.read_manifest(run)["huggingface"]["head_needs"]
        return native.class_logits(parity.TOKENS, lengths, 3, needs)
    targets = parity.TARGETS if native.is_encoder_decoder else None
    return native.logits(native.hidden(*native.inputs(parity.TOKENS, parity.FULL_MASK, targets)))


@pytest.mark.parametrize("case", CASES)
def test_pefts_adapter_becomes_ours_and_ours_becomes_pefts(case, tmp_path):
    peer, model_class, base, adapter = adapted(case, tmp_path)
    run, name = tmp_path / "run", CASES[case][0]
    from_peft.from_peft(str(adapter), str(run), str(base))
    expected = peer_logits(peer, name)
    parity.assert_close(our_logits(run, name), expected, 1e-4)
    plain = model_class.from_pretrained(base).eval()
    assert float((peer_logits(plain, name) - expected).abs().max()) > 0.01

    to_peft.to_peft(str(run), str(tmp_path / "back"), str(base))
    again = peft.PeftModel.from_pretrained(
        model_class.from_pretrained(base), tmp_path / "back"
    ).eval()
    parity.assert_close(peer_logits(again, name).detach(), expected, 1e-4)
    if "pr" in case.split()[1][:2]:
        with pytest.raises(ConfigError, match="cannot be merged into the model: virtual tokens"):
            convert.merge(str(run), str(tmp_path / "plain"))
        return
    convert.merge(str(run), str(tmp_path / "plain"))
    parity.assert_close(our_logits(tmp_path / "plain", name), expected, 1e-4)
    convert.to_hf(str(run), str(tmp_path / "hf"))
    merged = model_class.from_pretrained(tmp_path / "hf").eval()
    parity.assert_close(peer_logits(merged, name).detach(), expected, 1e-4)


def test_the_base_of_a_run_of_ours_is_written_beside_its_adapter(tmp_path):
    _, model_class, base, adapter = adapted("gpt2 lora", tmp_path)
    run = tmp_path / "run"
    from_peft.from_peft(str(adapter), str(run), str(base))
    to_peft.to_peft(str(run), str(tmp_path / "out"))
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "out/base")
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    name = "GPT2LMHeadModel"
    parity.assert_close(our_logits(run, name), peer_logits(again, name), 1e-4)


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_peft_loads_what_finetuning_trained_with_its_head_and_labels(name, tmp_path):
    preset = tiny_configs.pretraining(
        tmp_path, "configs/encoder.py:preset=bert-tiny", model__init_std=0.3
    )
    train.run(preset, str(tmp_path / "bert"))
    config = tiny_configs.finetuning(
        tmp_path, tmp_path / "bert", adapter__name=name, task__pooler=True, optimizer__warmup="never",
        optimizer__learning_rate=0.01, training__duration="5 steps", evaluation__select="last",
    )  # fmt: skip
    finetune.run(config, str(tmp_path / "run"))
    to_peft.to_peft(str(tmp_path / "run"), str(tmp_path / "peft"))
    loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "peft").eval()
    logits, batch = logits_of(tmp_path, tmp_path / "run", 5, task__pooler=True)
    inputs = batch.inputs
    arrays = (inputs.tokens, inputs.segment_ids, inputs.token_type_ids)
    names = ("input_ids", "attention_mask", "token_type_ids")
    arguments = {
        n: torch.from_numpy(np.array(x)).long() for n, x in zip(names, arrays, strict=True)
    }
    parity.assert_close(logits, loaded(**arguments).logits, 1e-4)
    assert set(loaded.config.id2label.values()) == {"wet", "dry"}
    base = type(loaded.base_model.model).from_pretrained(tmp_path / "peft/base").eval()
    assert float((base(**arguments).logits - loaded(**arguments).logits).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(bias="all"), "biases in the adapter"),
        (lambda c: c.update(peft_type="VERA"), "peft_type='VERA'; expected one of LORA"),
        (
            lambda c: c.update(base_model_name_or_path="org/model"),
            "give the Hugging Face directory",
        ),
    ],
    ids=["bias", "type", "base"],
)
def test_what_is_not_supported_is_one_line(change, message, tmp_path):
    *_, base, adapter = adapted("bert dora", tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    change(config)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    given = "" if config["base_model_name_or_path"] == "org/model" else str(base)
    with pytest.raises(ConfigError, match=message) as caught:
        from_peft.from_peft(str(adapter), str(tmp_path / "run"), given)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()

"""Every task: batches of similar length and packed batches give what plain batches give."""

import functools

import jax
import numpy as np
import pytest
import tiny_configs

import models
from data import tokenizer as tokenizers
from models.config import complete_config
from tasks import FINETUNE_TASKS, evaluate
from training import config as config_lib
from training.schema import FinetuneConfig

GENERATES = ("seq2seq", "text_to_text")
PACKED = [name for name, task in FINETUNE_TASKS.items() if task.can_pack]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    tokenizers.of_words([*tiny_configs.WORDS, "wet", "dry"]).save(folder / "tokenizer.json")
    return folder


@functools.cache
def load(folder, name, architecture, **options):
    """(the task of a shipped config, its model)."""
    options = {f"task__{key}": value for key, value in options.items()}
    config = tiny_configs.finetuning(folder, "unused", f"configs/finetune/{name}.py", **options)
    config = config_lib.resolve(FinetuneConfig, config)
    model = models.ModelConfig(
        architecture=architecture, num_layers=1, emb_dim=32, num_heads=2, mlp_dim=64, init_std=0.3
    )
    size = tokenizers.load(folder / "tokenizer.json").size
    model = complete_config(model, size, 128)
    config.task.check_model(model)
    task = config.task.load(config, model, folder / "tokenizer.json", lambda line: None)
    return task, models.build(task.model_config)


@functools.cache
def params_of(folder, name, architecture):
    task, model = load(folder, name, architecture, max_seq_len=64)
    return jax.jit(functools.partial(task.init, model=model))(
        {"init": jax.random.key(0), "head": jax.random.key(1)}
    )


@pytest.mark.parametrize("name", ["tagging", "question_answering"])
def test_outputs_that_follow_the_width_are_scored_as_without_grouping(folder, name):
    params = params_of(folder, name, "encoder")
    scores = []
    for steps in (0, 4):
        task, model = load(folder, name, "encoder", max_seq_len=64, length_group_steps=steps)
        step = jax.jit(lambda batch, task=task, model=model: task.outputs(model, params, batch))
        predictions, values = evaluate(task, "validation", step)
        scores.append(values)
        rows = list(task.prediction_rows("validation", predictions))
        assert len(rows) == task.encoded["validation"].num_examples
    assert 1 < len(task.shapes) <= 5
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [(name, "decoder" if name in GENERATES else "encoder") for name in PACKED]
    + [("tagging", "encoder_decoder"), ("question_answering", "encoder_decoder")],
)
def test_packed_batches_of_every_task_have_the_loss_of_unpacked_ones(folder, name, architecture):
    params = params_of(folder, name, architecture)
    length = 128 - 16 if name in GENERATES else 128  # rows for several examples
    tasks = [load(folder, name, architecture, max_seq_len=length, packing=p) for p in (False, True)]
    (plain, model), (packed, _) = tasks
    batches = [task.train_inputs(1) for task, _ in tasks]
    assert batches[0].packing is None and 0 < batches[1].packing.num_rows < plain.batch_size
    step = jax.jit(lambda batch: plain.losses(model, params, batch, None))
    expected, found = map(step, batches)
    for metric in expected:
        np.testing.assert_allclose(found[metric], expected[metric], rtol=1e-4, err_msg=metric)


def test_a_task_with_several_rows_per_example_is_not_packed(folder):
    with pytest.raises(
        ValueError, match="packing=True does not work with task.name='multiple_choice'"
    ):
        load(folder, "multiple_choice", "encoder", packing=True)

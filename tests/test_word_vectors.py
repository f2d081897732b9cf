"""Word vectors end to end: trained, resumed, exported, imported, scored and used for finetuning."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_configs

import finetune
import train
from data import tokenizer as tokenizers
from data import vectors
from data.vectors import Vectors
from tools import convert, evaluate, inspect, word_suites, word_vectors
from training import checkpoint, cli, run_directory, sharding
from training import config as config_lib
from training.config import ConfigError
from training.param_rules import flatten_params, unflatten_params
from training.schema import FinetuneConfig, MeshConfig

MODEL = {
    "model__num_layers": 1, "model__num_heads": 2, "model__mlp_dim": 32, "model__emb_dim": 16,
}  # fmt: skip
STEPS = {"training__duration": "6 steps", "checkpoint__every": "6 steps"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Skip-gram runs of words and of subword tokens, and an encoder with the same subword tokens."""
    folder = tmp_path_factory.mktemp("vectors")
    config = tiny_configs.pretraining(folder, "configs/skip_gram.py", **STEPS)
    train.run(config, str(folder / "words"))
    overrides = {"model__emb_dim": 32, **STEPS}
    config = tiny_configs.pretraining(folder, "configs/encoder.py", **overrides)
    train.run(config, str(folder / "encoder"))
    config = tiny_configs.pretraining(folder, "configs/skip_gram.py:words=false", **overrides)
    train.run(config, str(folder / "subwords"))
    return folder


def read_params(run, step):
    """{path: array} of a checkpoint."""
    replicated = sharding.replicated(sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
    shapes = checkpoint.params_metadata(run, step)
    target = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=replicated)
              for k, v in shapes.items()}  # fmt: skip
    checkpoints = pathlib.Path(run) / "checkpoints"
    tree = checkpoint.read_params(checkpoints, step, unflatten_params(target))
    return {k: np.asarray(v) for k, v in flatten_params(tree).items()}


def test_a_skip_gram_run_has_two_tables_and_learns(folder):
    first, last = read_params(folder / "words", 0), read_params(folder / "words", 6)
    assert set(last) == {"embed/tokens/embedding", "heads/context/embedding"}
    assert (first["heads/context/embedding"] == 0).all()
    tokenizer = tokenizers.load(folder / "words/tokenizer.json")
    river = tokenizer.encode("River")[0]
    assert tokenizer.token(river) == "river" and tokenizer.is_word_level
    for name in first:
        assert not np.array_equal(first[name][river], last[name][river])
    special = np.arange(113)  # neither read nor sampled
    np.testing.assert_array_equal(
        first["embed/tokens/embedding"][special], last["embed/tokens/embedding"][special]
    )
    lines = tiny_configs.metrics(folder / "words")
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[0] == pytest.approx(6 * np.log(2), abs=1e-3) and losses[-1] < losses[0]


def test_invariant_02_word_vectors_resume_bit_for_bit(folder, monkeypatch):
    train_loop = train.train_loop

    def crashing(*arguments, save, **keywords):
        def save_then_crash(state, metrics):
            save(state, metrics)
            if int(state.step) == 3:
                raise RuntimeError("crash")

        return train_loop(*arguments, save=save_then_crash, **keywords)

    config = tiny_configs.pretraining(
        folder, "configs/skip_gram.py", **{**STEPS, "checkpoint__every": "1 steps"}
    )
    monkeypatch.setattr(train, "train_loop", crashing)
    with pytest.raises(RuntimeError, match="crash"):
        train.run(config, str(folder / "resumed"))
    monkeypatch.setattr(train, "train_loop", train_loop)
    train.run(config, str(folder / "resumed"))
    whole, resumed = read_params(folder / "words", 6), read_params(folder / "resumed", 6)
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    assert tiny_configs.metrics(folder / "words") == tiny_configs.metrics(folder / "resumed")


@pytest.mark.parametrize(
    "change",
    [
        {"training__grad_accum_steps": 2},
        {"mesh__fsdp": 2},
        {"mesh__tensor": 2, "mesh__sequence": 2},
    ],
)
def test_invariants_4_and_11_microbatches_and_devices_do_not_change_the_losses(folder, change):
    config = tiny_configs.pretraining(folder, "configs/skip_gram.py", **STEPS, **change)
    run = folder / "-".join(change)
    train.run(config, str(run))
    whole, other = tiny_configs.metrics(folder / "words"), tiny_configs.metrics(run)
    assert len(whole) == len(other)
    for a, b in zip(whole, other, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", ["out.txt", "out.bin.gz"])
def test_export_and_import_keep_every_vector(folder, tmp_path, name):
    path, run = str(tmp_path / name), str(tmp_path / "run")
    count = convert.to_vectors(str(folder / "words"), path)
    read = vectors.read(path)
    table = word_vectors.load_token_embedding(folder / "words", 6)
    tokenizer = tokenizers.load(folder / "words/tokenizer.json")
    assert len(read.words) == count and read.words[0] == tokenizer.token(113)
    np.testing.assert_array_equal(read.table, table[113 : 113 + count])
    convert.from_vectors(path, run)
    again = word_vectors.load_token_embedding(*checkpoint.resolve_checkpoint(run))
    np.testing.assert_array_equal(again[113 : 113 + count], read.table)
    with pytest.raises(ConfigError, match="is not empty"):
        convert.from_vectors(path, run)
    subjects = [
        word_suites.Subject(str(folder / "words")),
        word_suites.Subject(f"{run}@0"),
        word_suites.Subject(file=path),
    ]
    words = ["river", "water", "Light", "nowhere"]
    first, *others = [subject.words.vectors(words) for subject in subjects]
    assert first[1].tolist() == [True, True, True, False]
    for unit, known in others:
        np.testing.assert_array_equal(unit, first[0])
        np.testing.assert_array_equal(known, first[1])


def test_an_interrupted_import_leaves_nothing_and_runs_again(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    path, run = str(tmp_path / "a.vec"), tmp_path / "run"
    vectors.write(path, ["[UNK]", "river"], np.ones((2, 4), np.float32))
    for name in ("write_config", "write_manifest"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(run_directory, name, interrupted)
            convert.from_vectors(path, str(run))
        assert [each.name for each in tmp_path.iterdir()] == ["a.vec"]
    assert convert.from_vectors(path, str(run)) == 2


@pytest.fixture(scope="module")
def imported(folder):
    """(file, run) of word vectors with 24 dimensions, for half of the corpus' words and two others."""
    words = ["[UNK]", *tiny_configs.WORDS[::2], "elsewhere"]
    table = np.random.default_rng(0).standard_normal((len(words), 24)).astype(np.float32)
    path, run = str(folder / "imported.vec.gz"), folder / "imported"
    vectors.write(path, words, table)
    convert.from_vectors(path, str(run))
    return path, run


def test_imported_vectors_provide_tokenizer_table_and_a_projection(folder, imported, caplog):
    path, run = imported
    params = {}
    for init in ("embeddings", "random"):
        workdir = folder / f"imported-{init}"
        with caplog.at_level("INFO", "triptych"):
            config = tiny_configs.finetuning(folder, run, init=init, **MODEL)
            result = finetune.run(config, str(workdir))
        assert "test/accuracy" in result.metrics
        params[init] = read_params(workdir, 0)
        resolved = config_lib.resolve(FinetuneConfig, config)
        before = inspect.load(resolved, 1)
        after = inspect.load(resolved, 1, workdir)
        jax.tree.map(np.testing.assert_array_equal, before.batch, after.batch)
    assert "coverage of the training examples" in caplog.text and "tokens known" in caplog.text
    read = vectors.read(path)
    ids, rows = read.rows(read.tokenizer())
    imported_run = read_params(run, 0)["embed/tokens/embedding"]
    table, random = (params[init].pop("embed/tokens/embedding") for init in params)
    assert table.shape == random.shape and table.shape[1] == 24
    np.testing.assert_array_equal(table[ids], rows)
    others = np.setdiff1d(np.arange(len(table)), ids)
    np.testing.assert_array_equal(table[others], imported_run[others])
    assert table[others].std() == pytest.approx(0.02, rel=0.1)
    assert params["embeddings"]["projection/kernel"].shape == (24, 16)
    for name, value in params["random"].items():  # paired: all but the table are the same
        np.testing.assert_array_equal(value, params["embeddings"][name], err_msg=name)


def test_a_new_model_takes_the_table_and_tokens_of_a_skip_gram_run(folder):
    pretrained = read_params(folder / "words", 6)["embed/tokens/embedding"]
    config = tiny_configs.finetuning(
        folder, folder / "words", init="embeddings", **MODEL, model__architecture="decoder"
    )
    finetune.run(config, str(folder / "decoder"))
    first = read_params(folder / "decoder", 0)
    np.testing.assert_array_equal(first["embed/tokens/embedding"], pretrained)
    assert first["projection/kernel"].shape == (32, 16)
    assert any(name.startswith("decoder/layer_0") for name in first)
    shutil.copytree(folder / "decoder", folder / "moved")
    assert finetune.run(config, str(folder / "moved")).step == 2  # complete without its source


def test_embeddings_from_reads_the_table_of_another_run(folder):
    params = {}
    for init, extra in (
        ("embeddings", {"embeddings_from": str(folder / "subwords")}),
        ("random", {}),
    ):
        config = tiny_configs.finetuning(folder, folder / "encoder", init=init, **extra)
        finetune.run(config, str(folder / f"from-{init}"))
        params[init] = read_params(folder / f"from-{init}", 0)
    table = params["embeddings"].pop("embed/tokens/embedding")
    pretrained = read_params(folder / "subwords", 6)["embed/tokens/embedding"]
    np.testing.assert_array_equal(table, pretrained)
    for name, value in params["embeddings"].items():
        np.testing.assert_array_equal(value, params["random"][name])


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("words", {"init": "pretrained"}, "word vectors are a token embedding and nothing else"),
        ("imported", {"init": "pretrained"}, "word vectors are a token embedding and nothing else"),
        ("imported.vec.gz", {"init": "embeddings"}, "imported.vec.gz"),
        ("nowhere", {"init": "random"}, "nowhere"),
        ("words", {"init": "random", "model__architecture": "embeddings"}, "no hidden states"),
        ("imported", {"init": "random", "model__embedding_size": 8}, "have size 24"),
        ("encoder", {"model__emb_dim": 64}, "has a model of its own"),
        ("encoder", {"embeddings_from": "words"}, "set init=embeddings"),
        (
            "encoder",
            {"embeddings_from": "words", "init": "embeddings"},
            "with another tokenizer",
        ),
    ],
)
def test_a_config_that_does_not_fit_word_vectors_is_an_error_of_one_line(
    folder, imported, tmp_path, source, overrides, message
):
    if "embeddings_from" in overrides:
        overrides = {**overrides, "embeddings_from": str(folder / overrides["embeddings_from"])}
    config = tiny_configs.finetuning(folder, folder / source, **overrides)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        finetune.run(config, str(tmp_path / "run"))
    assert "\n" not in str(caught.value)


# ---- scores ------------------------------------------------------------------------------------------

PLANE = {
    "king": (3, 1),
    "man": (3, 0),
    "woman": (0, 3),
    "queen": (0, 4),
    "boy": (5, 1),
    "x": (1, 1),
}


@pytest.fixture
def plane():
    """A table whose similarities and analogies can be computed by hand."""
    read = Vectors(list(PLANE), np.array(list(PLANE.values()), np.float32))
    tokenizer = read.tokenizer()
    ids, rows = read.rows(tokenizer)
    table = np.zeros((tokenizer.size, 2), np.float32)
    table[ids] = rows
    return word_vectors.Words(tokenizer, table)


@pytest.mark.parametrize("separator", ["\t", ",", " ", ", "])
@pytest.mark.parametrize("header", ["", "word1{0}word2{0}score\n"])
def test_similarity_is_spearman_of_cosines_and_counts_unknown_words(
    plane, tmp_path, separator, header
):
    # cosines: man-boy .98, man-king .95, man-x .71, man-woman 0; the scores have another order
    pairs = [("man", "boy", 8), ("Man", "king", 9), ("man", "x", 3.5), ("man", "woman", 1),
             ("man", "alien", 2)]  # fmt: skip
    text = header.format(separator) + "".join(separator.join(map(str, p)) + "\n" for p in pairs)
    (tmp_path / "pairs.tsv").write_text(text)
    (line,), _ = word_vectors.similarity(plane, str(tmp_path / "pairs.tsv"))
    # ranks 1 2 3 4 against 2 1 3 4: 1 - 6 * 2 / (4 * 15)
    assert line["pairs"] == 5 and line["out_of_vocabulary"] == 1
    assert line["spearman"] == pytest.approx(1 - 12 / 60)


def test_the_vector_of_a_word_is_the_mean_of_its_tokens(plane):
    unit, known = plane.vectors(["man-woman", "man", "zebra"])
    assert known.tolist() == [False, True, False]  # '-' is not in the vocabulary
    plane.tokenizer = tokenizers.of_words([*PLANE, "-"])
    plane.table = np.concatenate([plane.table, np.zeros((1, 2), np.float32)])
    unit, known = plane.vectors(["man-woman"])
    np.testing.assert_allclose(unit, [[0.5**0.5] * 2], rtol=1e-6)  # mean of (3,0), (0,0), (0,3)


def test_analogy_excludes_the_words_of_the_question_and_counts_by_section(plane, tmp_path):
    (tmp_path / "questions.txt").write_text(
        ": family\nman king woman queen\nman king woman boy\nman king alien queen\n"
        ": gram1\nking man queen woman\n"
    )
    (family, gram, total), _ = word_vectors.analogy(plane, str(tmp_path / "questions.txt"))
    # king - man + woman, of unit vectors, is (-.05, 1.32). Its nearest word is woman, which is part of
    # the question, then queen.
    assert family == {
        "section": "family", "questions": 3, "out_of_vocabulary": 1, "asked": 2, "right": 1,
        "accuracy": 0.5,
    }  # fmt: skip
    assert gram["asked"] == 1 and gram["right"] == 1
    assert total["questions"] == 4 and total["right"] == 2 and total["candidates"] == 6


@pytest.mark.parametrize(
    ("suite", "text", "message"),
    [
        ("similarity", "man king\n", "a.tsv:1 has 2 fields"),
        ("similarity", "man\tking\t1\nman\tboy\tmany\n", "a.tsv:2: 'many' is not a score"),
        ("similarity", "man\tking\tnan\n", "not finite"),
        ("similarity", "", "holds no pair"),
        ("similarity", "alien\tmars\t1\nalien\tufo\t2\n", "0 of 2 pairs are in the vocabulary"),
        ("similarity", b"caf\xe9\tman\t1\n", "a.tsv:1 is not UTF-8"),
        ("analogy", "man king woman\n", "a.tsv:1 has 3 words"),
        ("analogy", "\n", "holds no question"),
    ],
)
def test_a_malformed_test_file_is_an_error_of_one_line(plane, tmp_path, suite, text, message):
    path = tmp_path / "a.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        word_suites.SUITES[suite](plane, str(path))
    assert "\n" not in str(caught.value)


def test_the_command_lines_print_write_and_reject(folder, tmp_path, capsys):
    data = tmp_path / "pairs.csv"
    data.write_text("river,stone,3\nwater,light,1\ngarden,letter,2\n")
    out = tmp_path / "scores.json"
    run = f"--run={folder / 'subwords'}"
    arguments = [run, "--suite=similarity", "--data", str(data)]
    evaluate.main([*arguments, f"--output={out}"])
    assert "pairs.csv  pairs 3  out_of_vocabulary 0  spearman" in capsys.readouterr().out
    assert json.loads(out.read_text())[str(data)]["scores"][0]["pairs"] == 3
    questions = tmp_path / "questions.txt"
    questions.write_text("river stone water light\n")
    evaluate.main([run, "--suite=analogy", f"--data={questions}"])
    # Subword tokens form unlimited words, so the candidates are the words of the file.
    assert "candidates 4" in capsys.readouterr().out
    evaluate.main(
        [f"--run={folder / 'words'}", "--suite=coverage", f"--data=text:{folder}/corpus.txt"]
    )
    assert "100.0%" in capsys.readouterr().out
    for line, expected in (
        (["--run=/nowhere", *arguments[1:]], "'/nowhere' is not a run directory"),
        ([run, "--suite=similarty", *arguments[2:]], "similarty"),
        (["--suite=similarity", *arguments[2:]], "--run"),
        ([*arguments, "--max_vectors=1"], "--max_vectors"),
    ):
        with pytest.raises(SystemExit):
            cli.main(evaluate.main, line)
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    with pytest.raises(ConfigError, match="to_vectors"):
        convert.main(["to_vectors", str(folder / "words")])

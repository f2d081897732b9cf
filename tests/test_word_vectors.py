"""Word vectors end to end: trained and resumed like any run, exported, imported, scored, taken over."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import shrink

import finetune
import train
from data import tokenizer as tokenizers
from data import vectors as files
from data.vectors import Vectors
from tools import evaluate, inspect, vectors, word_vectors
from training import checkpoint, cli, loop, rules, transfer
from training import config as configs
from training import mesh as meshes
from training.config import ConfigError

NETWORK = {
    "network__layers": 1, "network__heads": 2, "network__mlp_size": 32, "network__width": 16,
}  # fmt: skip
STEPS = {"training__duration": "6 steps", "checkpoint__every": "6 steps"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A skip-gram run of words, one of pieces, and an encoder over the same pieces."""
    made = tmp_path_factory.mktemp("vectors")
    train.run(shrink.pretraining(made, "configs/skip_gram.py", **STEPS), str(made / "words"))
    sized = {"model__width": 32, **STEPS}
    train.run(shrink.pretraining(made, "configs/encoder.py", **sized), str(made / "encoder"))
    config = shrink.pretraining(made, "configs/skip_gram.py:words=false", **sized)
    train.run(config, str(made / "pieces"))
    return made


def parameters(run, step):
    """{path: array} of a checkpoint."""
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    shapes = checkpoint.params_metadata(run, step)
    target = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=meshes.replicated(mesh))
              for k, v in shapes.items()}  # fmt: skip
    tree = checkpoint.read_params(pathlib.Path(run) / "checkpoints", step, rules.merge(target, {}))
    return {k: np.asarray(v) for k, v in rules.paths(tree).items()}


def test_a_run_of_word_vectors_holds_two_tables_and_learns(folder):
    first, last = parameters(folder / "words", 0), parameters(folder / "words", 6)
    assert set(last) == {"embed/tokens/embedding", "heads/context/embedding"}
    assert (first["heads/context/embedding"] == 0).all()
    tokenizer = tokenizers.load(folder / "words/tokenizer.json")
    river = tokenizer.encode("River")[0]
    assert tokenizer.piece(river) == "river" and tokenizer.whole_words
    for name in first:
        assert not np.array_equal(first[name][river], last[name][river])
    special = np.arange(113)  # is neither read nor drawn
    np.testing.assert_array_equal(
        first["embed/tokens/embedding"][special], last["embed/tokens/embedding"][special]
    )
    losses = [line["loss"] for line in shrink.metrics(folder / "words") if line["split"] == "train"]
    assert losses[0] == pytest.approx(6 * np.log(2), abs=1e-3) and losses[-1] < losses[0]


def test_law_2_word_vectors_resume_bit_for_bit(folder, monkeypatch):
    loop_run = loop.run

    def crashing(*arguments, save, **keywords):
        def save_then_crash(state, measured):
            save(state, measured)
            if int(state.step) == 3:
                raise RuntimeError("crash")

        return loop_run(*arguments, save=save_then_crash, **keywords)

    config = shrink.pretraining(
        folder, "configs/skip_gram.py", **{**STEPS, "checkpoint__every": "1 steps"}
    )
    monkeypatch.setattr(loop, "run", crashing)
    with pytest.raises(RuntimeError, match="crash"):
        train.run(config, str(folder / "resumed"))
    monkeypatch.setattr(loop, "run", loop_run)
    train.run(config, str(folder / "resumed"))
    whole, again = parameters(folder / "words", 6), parameters(folder / "resumed", 6)
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name])
    assert shrink.metrics(folder / "words") == shrink.metrics(folder / "resumed")


@pytest.mark.parametrize(
    "change",
    [{"training__microbatches": 2}, {"mesh__fsdp": 2}, {"mesh__tensor": 2, "mesh__data": 2}],
)
def test_law_4_and_11_microbatches_and_devices_change_nothing(folder, change):
    config = shrink.pretraining(folder, "configs/skip_gram.py", **STEPS, **change)
    run = folder / "-".join(change)
    train.run(config, str(run))
    whole, other = shrink.metrics(folder / "words"), shrink.metrics(run)
    assert len(whole) == len(other)
    for a, b in zip(whole, other, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", ["out.txt", "out.bin.gz"])
def test_export_and_import_keep_every_vector(folder, tmp_path, name):
    count = vectors.export(str(folder / "words"), str(tmp_path / name))
    read = files.read(str(tmp_path / name))
    table = transfer.table_of(folder / "words", 6)
    assert len(read.words) == count and read.words[0] == tokenizers.load(
        folder / "words/tokenizer.json"
    ).piece(113)
    np.testing.assert_array_equal(read.table, table[113 : 113 + count])
    vectors.import_(str(tmp_path / name), str(tmp_path / "run"))
    again = transfer.table_of(*checkpoint.locate(tmp_path / "run"))
    np.testing.assert_array_equal(again[113 : 113 + count], read.table)
    with pytest.raises(ConfigError, match="is not empty"):
        vectors.import_(str(tmp_path / name), str(tmp_path / "run"))
    subjects = [
        evaluate.Subject(str(folder / "words")),
        evaluate.Subject(str(tmp_path / "run@0")),
        evaluate.Subject(file=str(tmp_path / name)),
    ]
    given = ["river", "water", "Light", "nowhere"]
    first, *others = [subject.words.vectors(given) for subject in subjects]
    assert first[1].tolist() == [True, True, True, False]
    for unit, known in others:
        np.testing.assert_array_equal(unit, first[0])
        np.testing.assert_array_equal(known, first[1])


@pytest.fixture(scope="module")
def foreign(folder):
    """A file of vectors of 24 numbers, of half of the corpus' words and some others."""
    words = ["[UNK]", *shrink.WORDS[::2], "elsewhere"]
    table = np.random.default_rng(0).standard_normal((len(words), 24)).astype(np.float32)
    path = str(folder / "foreign.vec.gz")
    files.write(path, len(words), 24, zip(words, table, strict=True))
    return path


def test_foreign_vectors_bring_tokenizer_table_and_a_projection(folder, foreign, caplog):
    runs = {}
    for arm in ("embeddings", "none"):
        with caplog.at_level("INFO", "triptych"):
            config = shrink.finetuning(folder, foreign, transfer=arm, **NETWORK)
            result = finetune.run(config, str(folder / f"foreign-{arm}"))
        assert "test/accuracy" in result.metrics
        runs[arm] = parameters(folder / f"foreign-{arm}", 0)
        before = inspect.finetuning(configs.resolve(finetune.Config, config), 1)
        after = inspect.finetuning(
            configs.resolve(finetune.Config, config), 1, folder / f"foreign-{arm}"
        )
        jax.tree.map(np.testing.assert_array_equal, before.batch, after.batch)
    assert "coverage of the training examples" in caplog.text and "tokens known" in caplog.text
    read = files.read(foreign)
    ids, rows = read.rows(read.tokenizer())
    table, plain = (runs[arm].pop("embed/tokens/embedding") for arm in ("embeddings", "none"))
    assert table.shape == plain.shape and table.shape[1] == 24
    np.testing.assert_array_equal(table[ids], rows)
    others = np.setdiff1d(np.arange(len(table)), ids)
    np.testing.assert_array_equal(table[others], plain[others])  # specials begin as they would
    assert table[others].std() == pytest.approx(0.02, rel=0.1)
    assert runs["embeddings"]["projection/kernel"].shape == (24, 16)
    for name, value in runs["none"].items():  # paired: the same init but for the table
        np.testing.assert_array_equal(value, runs["embeddings"][name], err_msg=name)


def test_a_skip_gram_run_gives_its_table_and_its_pieces(folder):
    pretrained = parameters(folder / "words", 6)["embed/tokens/embedding"]
    config = shrink.finetuning(
        folder, folder / "words", transfer="embeddings", **NETWORK, network__architecture="decoder"
    )
    finetune.run(config, str(folder / "taken"))
    first = parameters(folder / "taken", 0)
    np.testing.assert_array_equal(first["embed/tokens/embedding"], pretrained)
    assert first["projection/kernel"].shape == (32, 16)
    assert any(name.startswith("decoder/layer_0") for name in first)
    shutil.copytree(folder / "taken", folder / "moved")
    assert finetune.run(config, str(folder / "moved")).step == 2  # complete without its source


def test_embeddings_from_puts_another_run_s_table_under_a_pretrained_network(folder):
    arms = {}
    for arm, extra in (("embeddings", {"embeddings_from": str(folder / "pieces")}), ("none", {})):
        config = shrink.finetuning(folder, folder / "encoder", transfer=arm, **extra)
        finetune.run(config, str(folder / f"from-{arm}"))
        arms[arm] = parameters(folder / f"from-{arm}", 0)
    table = arms["embeddings"].pop("embed/tokens/embedding")
    pieces = parameters(folder / "pieces", 6)["embed/tokens/embedding"]
    np.testing.assert_array_equal(table, pieces)
    for name, value in arms["embeddings"].items():
        np.testing.assert_array_equal(value, arms["none"][name])


@pytest.mark.parametrize(
    ("source", "overrides", "words"),
    [
        ("words", {"transfer": "all"}, "word vectors have a table and nothing above it"),
        ("foreign.vec.gz", {"transfer": "all"}, "word vectors have a table and nothing above it"),
        ("nowhere.txt", {"transfer": "none"}, "nowhere.txt"),
        ("words", {"transfer": "none", "network__architecture": "embeddings"}, "no hidden states"),
        ("foreign.vec.gz", {"transfer": "none", "network__embedding_size": 8}, "have 24 entries"),
        ("encoder", {"network__width": 64}, "has a network of its own"),
        ("encoder", {"embeddings_from": "words"}, "set transfer=embeddings"),
        (
            "encoder",
            {"embeddings_from": "words", "transfer": "embeddings"},
            "has another tokenizer",
        ),
    ],
)
def test_what_vectors_cannot_give_is_one_line(folder, foreign, tmp_path, source, overrides, words):
    if "embeddings_from" in overrides:
        overrides = {**overrides, "embeddings_from": str(folder / overrides["embeddings_from"])}
    config = shrink.finetuning(folder, folder / source, **overrides)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
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
    """A table whose similarities and analogies can be worked out by hand."""
    read = Vectors(list(PLANE), np.array(list(PLANE.values()), np.float32))
    tokenizer = read.tokenizer()
    ids, rows = read.rows(tokenizer)
    table = np.zeros((tokenizer.size, 2), np.float32)
    table[ids] = rows
    return word_vectors.Words(tokenizer, table)


@pytest.mark.parametrize("separator", ["\t", ",", " ", ", "])
@pytest.mark.parametrize("header", ["", "word1{0}word2{0}score\n"])
def test_similarity_is_spearman_of_cosines_and_counts_what_is_unknown(
    plane, tmp_path, separator, header
):
    # cosines: man-boy .98, man-king .95, man-x .71, man-woman 0; judged in another order
    pairs = [("man", "boy", 8), ("Man", "king", 9), ("man", "x", 3.5), ("man", "woman", 1),
             ("man", "alien", 2)]  # fmt: skip
    text = header.format(separator) + "".join(separator.join(map(str, p)) + "\n" for p in pairs)
    (tmp_path / "pairs.tsv").write_text(text)
    (line,) = word_vectors.similarity(plane, str(tmp_path / "pairs.tsv"))
    # ranks 1 2 3 4 against 2 1 3 4: 1 - 6 * 2 / (4 * 15)
    assert line["pairs"] == 5 and line["out_of_vocabulary"] == 1
    assert line["spearman"] == pytest.approx(1 - 12 / 60)


def test_a_word_is_the_mean_of_its_pieces(plane):
    unit, known = plane.vectors(["man-woman", "man", "zebra"])
    assert known.tolist() == [False, True, False]  # '-' is no word of this vocabulary
    plane.tokenizer = tokenizers.of_words([*PLANE, "-"])
    plane.table = np.concatenate([plane.table, np.zeros((1, 2), np.float32)])
    unit, known = plane.vectors(["man-woman"])
    np.testing.assert_allclose(unit, [[0.5**0.5] * 2], rtol=1e-6)  # mean of (3,0), (0,0), (0,3)


def test_analogy_leaves_the_question_out_and_counts_by_section(plane, tmp_path):
    (tmp_path / "questions.txt").write_text(
        ": family\nman king woman queen\nman king woman boy\nman king alien queen\n"
        ": gram1\nking man queen woman\n"
    )
    family, gram, total = word_vectors.analogy(plane, str(tmp_path / "questions.txt"))
    # king - man + woman, of unit vectors, is (-.05, 1.32): nearest is woman, which was asked with,
    # then queen
    assert family == {
        "section": "family", "questions": 3, "out_of_vocabulary": 1, "asked": 2, "right": 1,
        "accuracy": 0.5,
    }  # fmt: skip
    assert gram["asked"] == 1 and gram["right"] == 1
    assert total["questions"] == 4 and total["right"] == 2 and total["candidates"] == 6


@pytest.mark.parametrize(
    ("suite", "text", "words"),
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
def test_a_bad_test_file_is_one_line(plane, tmp_path, suite, text, words):
    path = tmp_path / "a.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words) as caught:
        evaluate.SUITES[suite].score(plane, str(path))
    assert "\n" not in str(caught.value)


def test_the_command_lines_print_write_and_refuse(folder, tmp_path, capsys):
    data = tmp_path / "pairs.csv"
    data.write_text("river,stone,3\nwater,house,1\ngarden,letter,2\n")
    out = tmp_path / "scores.json"
    words = [f"--run={folder / 'pieces'}", "--suite=similarity", "--data", str(data)]
    evaluate.main([*words, f"--out={out}"])
    assert "pairs.csv  pairs 3  out_of_vocabulary 0  spearman" in capsys.readouterr().out
    assert json.loads(out.read_text())[str(data)][0]["pairs"] == 3
    questions = tmp_path / "questions.txt"
    questions.write_text("river stone water house\n")
    evaluate.main([f"--run={folder / 'pieces'}", "--suite=analogy", f"--data={questions}"])
    assert (
        "candidates 4" in capsys.readouterr().out
    )  # pieces make words without end: the file's own
    vectors.main(["coverage", str(folder / "words"), f"--data=text:{folder}/corpus.txt"])
    assert "tokens known (1" in capsys.readouterr().out  # all of them: 100 %
    for line, expected in (
        (["--run=/nowhere", *words[1:]], "'/nowhere' is not a run directory"),
        ([words[0], "--suite=similarty", *words[2:]], "similarty"),
        (["--suite=similarity", *words[2:]], "--run"),
        ([*words, "--limit=1"], "--limit=1 is of a file of --vectors"),
    ):
        with pytest.raises(SystemExit):
            cli.main(evaluate.main, line)
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    with pytest.raises(ConfigError, match="needs two names"):
        vectors.main(["export", str(folder / "words")])

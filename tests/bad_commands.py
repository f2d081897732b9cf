"""Command lines of every program, and random mistakes in them: flags, values, config files, data, runs."""

import dataclasses
import pathlib
import shutil

import numpy as np
import tiny_configs

import finetune
import train
from launch import __main__ as launch
from tools import (
    compare,
    convert,
    evaluate,
    fill_mask,
    generate,
    inspect,
    plan,
    predict,
    prepare,
    reproduce,
    sweep,
    watch,
)

JUNK = (
    "", " ", "-1", "0", "1", "7", "0.5", "nan", "inf", "-inf", "1e99",
    "99999999999999999999", "True",
    "None", "()", "[]", "{}", "((1,2)", "'", '"', "a b", "é", "💥", "x" * 300, "%", "*", "../..", "{a,b",
    "[", "a,b", "1 steps", "5 %", "never", "adamw", "-", "--", "~", "$HOME", "\\", "\x07",
    "lambda: 0", "1_000", "½",
)  # fmt: skip
PATHS = ("missing/file.txt", "empty.txt", "folder", "binary.bin", "utf16.txt", "latin1.txt", "cut.gz",
         "deep.json", "nul.txt", "rows.csv", "page.pdf", "sheet.xlsx", "no_suffix", "loop")  # fmt: skip
CONFIGS = {
    "syntax.py": "def get_config(:\n", "nothing.py": "x = 1\n", "imports.py": "import no_such_module\n",
    "raises.py": "raise RuntimeError('as it is')\n", "exits.py": "import sys\nsys.exit(0)\n",
    "number.py": "def get_config(arg=''):\n    return 3\n", "empty.py": "", "bytes.py": "\xff\xfe",
    "none.py": "def get_config(arg=''):\n    pass\n",
    "wrong.py": "def get_config():\n    return {'model': 3}\n",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line that works, before a mistake is made in it.

    Attributes:
      program: name for the report.
      main: function of argv.
      argv: its arguments.
    """

    program: str
    main: object
    argv: tuple


def prepare_inputs(folder):
    """Writes runs, data and broken files below `folder`."""
    for architecture in ("decoder", "encoder", "encoder_decoder"):
        config = tiny_configs.pretraining(folder, f"configs/{architecture}.py")
        train.run(config, str(folder / architecture))
    finetune.run(tiny_configs.finetuning(folder, folder / "encoder"), str(folder / "classifier"))
    bad = folder / "bad"
    (bad / "folder").mkdir(parents=True)
    (folder / "configs").symlink_to(pathlib.Path("configs").resolve())
    (bad / "folder/inside.txt").write_text("a river\n")
    for name in ("empty.txt", "no_suffix"):
        (bad / name).touch()
    for name in ("binary.bin", "page.pdf", "sheet.xlsx"):
        head = {"page.pdf": b"%PDF-1.7\n", "sheet.xlsx": b"PK\x03\x04"}.get(name, b"\x80\x04")
        (bad / name).write_bytes(head + bytes(range(256)) * 8)
    (bad / "utf16.txt").write_text("a river and a stone\n", encoding="utf-16")
    (bad / "latin1.txt").write_bytes("un caf\xe9 noir\n".encode("latin-1"))
    (bad / "cut.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abc")
    (bad / "deep.json").write_text("[" * 100_000)
    (bad / "nul.txt").write_bytes(b"a river\x00 and\n")
    (bad / "rows.csv").write_text('a,b\n1\n"2,3\n')
    (bad / "loop").symlink_to(bad / "loop")
    for name, text in CONFIGS.items():
        (bad / name).write_text(text, encoding="latin-1")
    (folder / "texts.txt").write_text("the river [MASK] stone\na garden\n")
    (folder / "pairs.jsonl").write_text('{"sentence_good": "a b", "sentence_bad": "b a"}\n' * 3)


def remove_outputs(folder):
    """Removes what a command before may have written."""
    for path in folder.glob("new*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def commands(folder):
    """Command lines that work, over the files of `prepare_inputs`."""

    def training(architecture, *more):
        config = f"configs/{architecture}.py"
        fields = tiny_configs.flags(tiny_configs.pretraining(folder, config))
        return (f"--config={config}", f"--workdir={folder}/new", *fields, *more)

    def finetuning(task, **fields):
        config = f"configs/finetune/{task}.py"
        given = tiny_configs.flags(
            tiny_configs.finetuning(folder, folder / "encoder", config, **fields)
        )
        return (f"--config={config}", f"--workdir={folder}/new", *given)

    names = ("decoder", "encoder", "encoder_decoder", "classifier")
    run, text = {name: f"--run={folder}/{name}" for name in names}, f"{folder}/texts.txt"
    again = [each for each in training("decoder") if not each.startswith("--workdir")]
    found = [Command("train.py", train.main, training(name)) for name in
             ("decoder", "encoder", "encoder_decoder")]  # fmt: skip
    found += [
        Command("train.py", train.main, (*again, f"--workdir={folder}/decoder")),
        Command("train.py", train.main, training("decoder", f"--config.init_from={folder}/decoder")),
        *(Command("finetune.py", finetune.main, finetuning(task)) for task in
          ("classification", "tagging", "regression", "question_answering")),
        Command("prepare", prepare.main, tuple(f for f in training("decoder") if "workdir" not in f)),
        Command("inspect", inspect.main, (run["decoder"], "--step=1", "--rows=2", "--format=json")),
        Command("inspect", inspect.main, (run["classifier"], "--step=0", "--row=1", "--raw")),
        Command("convert", convert.main, ("to_hf", f"{folder}/decoder", f"{folder}/new", "--dtype=float32")),
        Command("convert", convert.main, ("from_hf", f"{folder}/decoder", f"{folder}/new")),
        Command("predict", predict.main, (run["classifier"], "--text=a river", "--format=jsonl")),
        Command("predict", predict.main, (run["classifier"], f"--file={folder}/test.tsv", "--score",
                                          f"--output={folder}/new.jsonl")),
        Command("generate", generate.main, (run["decoder"], "--prompt=the", "--max_new_tokens=2",
                                            "--num_beams=1", "--temperature=1.0", "--top_k=3")),
        Command("generate", generate.main, (run["encoder_decoder"], f"--file={text}",
                                            "--max_new_tokens=2", f"--output={folder}/new.jsonl")),
        Command("fill_mask", fill_mask.main, (run["encoder"], "--text=a [MASK] b", "--n_best=2")),
        Command("fill_mask", fill_mask.main, (run["encoder"], f"--file={text}", "--order=joint")),
        Command("evaluate", evaluate.main, (run["decoder"], "--suite=perplexity", f"--data={text}",
                                            "--limit=1", f"--output={folder}/new.json")),
        Command("evaluate", evaluate.main, (run["encoder"], "--suite=minimal_pairs",
                                            f"--data={folder}/pairs.jsonl", "--scoring=auto",
                                            f"--output={folder}/new.json")),
        Command("plan", plan.main, (*again, "--topology=cpu:1")),
        Command("sweep", sweep.main, ("--config=configs/sweeps/learning_rate.py:size=tiny",
                                      "--executor=print", f"--workdir={folder}/sweep", "--jobs=1")),
        Command("watch", watch.main, (f"{folder}/decoder", "--once", "--samples=1")),
        Command("compare", compare.main, (f"{folder}/decoder", f"{folder}/encoder", "--samples=1")),
        Command("reproduce", reproduce.main, (f"{folder}/decoder", "--check",
                                              f"--workdir={folder}/new")),
        Command("launch", launch.main, ("slurm", "--nodes=1", "--ship_diff", f"--output={folder}/job",
                                        "--", "python", "train.py", "--config=configs/decoder.py",
                                        f"--workdir={folder}/new")),
    ]  # fmt: skip
    return found


def with_a_mistake(command, folder, random):
    """(argv, what was done to it): one random mistake in a command line of `commands`."""
    argv = list(command.argv)
    number = int(random.integers(len(argv)))
    name, equals, value = argv[number].partition("=")
    kind = random.choice(MISTAKES)
    if kind == "drop":
        return [*argv[:number], *argv[number + 1 :]], f"without {argv[number][:60]}"
    if kind == "misspell":
        at = int(random.integers(2, max(len(name), 3)))
        argv[number] = f"{name[:at]}{name[at + 1 :]}{equals}{value}"
    elif kind == "junk" or not equals:
        argv[number] = f"{name}={random.choice(JUNK)}" if equals else str(random.choice(JUNK))
    elif kind == "path":
        bad = f"{folder}/bad/{random.choice([*PATHS, *CONFIGS])}"
        prefix = value[: value.index(":") + 1] if value.startswith(("text:", "files:")) else ""
        argv[number] = f"{name}={prefix}{bad}"
    elif kind == "append":
        argv.append(str(random.choice(JUNK)))
    elif kind == "cut":
        argv[number] = f"{name}={value[: int(random.integers(len(value) + 1))]}"
    else:
        return damaged(argv, folder, random)
    return argv, argv[number if kind != "append" else -1][:80]


MISTAKES = ("drop", "misspell", "junk", "junk", "junk", "path", "append", "cut", "damage", "damage")


def damaged(argv, folder, random):
    """As `with_a_mistake`: a file of a run or of the data is removed, cut, or has other bytes."""
    named = [(n, path) for n, each in enumerate(argv) for path in (each.partition("=")[2] or each,)
             if path.startswith(f"{folder}/") and pathlib.Path(path).exists()]  # fmt: skip
    if not named:
        return [*argv, "--no_such_flag"], "--no_such_flag"
    number, path = named[int(random.integers(len(named)))]
    copy = folder / "damaged"
    if copy.is_dir() and not copy.is_symlink():
        shutil.rmtree(copy)
    copy.mkdir()
    source, target = pathlib.Path(path), copy / pathlib.Path(path).name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
    if not files:
        return [*argv, "--no_such_flag"], "--no_such_flag"
    file = files[int(random.integers(len(files)))]
    how = random.choice(("removed", "cut", "garbage", "empty", "folder"))
    content = file.read_bytes()
    file.unlink()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "garbage":
        file.write_bytes(np.random.default_rng(int(random.integers(2**31))).bytes(64))
    elif how == "empty":
        file.touch()
    elif how == "folder":
        file.mkdir()
    changed = [
        each.replace(path, str(target)) if n == number else each for n, each in enumerate(argv)
    ]
    return changed, f"{file.relative_to(copy)} {how}"

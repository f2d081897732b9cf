"""The most anonymous memory that a conversion takes, in and out, of a network of a billion parameters.

python -m benchmarks.conversion [--layers=14] [--dtype=bfloat16] [--folder=DIR]

Anonymous memory is RssAnon of /proc/self/status (Linux): what a process has that is not a file's.
Each direction runs in a process of its own; the share is of the larger copy, there or here.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import tokenizers

from huggingface import convert, shapes
from huggingface.families import FAMILIES
from huggingface.weights import Leaf, write_weights

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000,
    "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 8192, "max_position_embeddings": 2048,
}  # fmt: skip


def model(folder, layers, dtype):
    """Writes a Hugging Face directory of random numbers; its parameters."""
    config = {**SHAPE, "num_hidden_layers": layers}
    family = FAMILIES["llama"]
    network = family.model(config)
    whole = shapes.of_network(family, network, 2)
    tree, _ = shapes.of_class(family, whole, "LlamaForCausalLM")
    moves = family.moves(network, tree)
    leaves = {
        m.theirs: Leaf(
            convert.DTYPES[dtype], m.how.shape([tree[p] for p in m.ours], network.vocab_size)
        )
        for m in moves
    }
    random = np.random.default_rng(0)

    def read(name):
        return random.standard_normal(leaves[name].shape, np.float32).astype(leaves[name].dtype)

    write_weights(folder, leaves, read)
    (folder / "config.json").write_text(json.dumps(config))
    words = {"[PAD]": 0, "[UNK]": 1, "[EOS]": 2}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.add_special_tokens(list(words))
    inner.save(str(folder / "tokenizer.json"))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves.values())


def anonymous():
    """Bytes of this process that are not a file's."""
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("RssAnon")).split()[1])


def measured(function, *arguments):
    """Runs it and prints {seconds, before, peak} in bytes."""
    before, done, peak = anonymous(), threading.Event(), [0]

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        function(*arguments)
    finally:
        done.set()
        watcher.join()
    print(json.dumps({"seconds": time.perf_counter() - started, "before": before, "peak": peak[0]}))


def main():
    """Command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=14, help="of 67 million parameters each")
    parser.add_argument("--dtype", choices=tuple(convert.DTYPES), default="bfloat16")
    parser.add_argument("--folder", default=None, help="of the files, 10 bytes a parameter")
    parser.add_argument("--only", nargs=3, metavar=("WHAT", "FROM", "TO"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        measured(getattr(convert, given.only[0]), *given.only[1:])
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        folder = pathlib.Path(folder)
        count = model(folder / "there", given.layers, given.dtype)
        larger = 4 * count  # ours is float32
        print(f"{count:,} parameters, {given.dtype} there, {larger / 1e9:.2f} GB here")
        for what, source, target in (("from_hf", "there", "run"), ("to_hf", "run", "back")):
            names = [what, str(folder / source), str(folder / target)]
            command = [sys.executable, "-m", "benchmarks.conversion", "--only", *names]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(out.splitlines()[-1])
            print(
                f"{what}: peak {found['peak'] / 1e9:.2f} GB of anonymous memory ({found['before'] / 1e9:.2f} "
                f"before it began), {found['peak'] / larger:.2f} of the larger copy; "
                f"{found['seconds']:.0f} s"
            )


if __name__ == "__main__":
    main()

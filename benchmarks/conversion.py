"""Peak memory of a conversion in both directions: python -m benchmarks.conversion [--layers=14]

Reports how much anonymous memory (RssAnon on Linux, which excludes mapped files) grows in each
direction, in a process of its own, as a fraction of the larger copy of the weights.
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

from huggingface import convert, param_shapes
from huggingface.families import FAMILIES
from huggingface.weights import Leaf, write_weights

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000,
    "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 8192, "max_position_embeddings": 2048,
}  # fmt: skip


def make_model(folder: pathlib.Path, num_layers: int, dtype: str) -> int:
    """Writes a Hugging Face directory of random numbers and returns the number of parameters."""
    config = {**CONFIG, "num_hidden_layers": num_layers}
    family = FAMILIES["llama"]
    model = family.model_config(config)
    shapes = param_shapes.of_model(family, model, 2)
    tree, _ = param_shapes.of_class(family, shapes, "LlamaForCausalLM")
    leaves = {}
    for param in family.resolve(model, tree):
        shape = param.transform.hf_shape([tree[path] for path in param.native], model.vocab_size)
        leaves[param.hf] = Leaf(convert.DTYPES[dtype], shape)
    random = np.random.default_rng(0)

    def read(name):
        return random.standard_normal(leaves[name].shape, np.float32).astype(leaves[name].dtype)

    write_weights(folder, leaves, read)
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[EOS]": 2}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.add_special_tokens(list(vocabulary))
    inner.save(str(folder / "tokenizer.json"))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves.values())


def anonymous_memory() -> int:
    """Anonymous memory of this process in bytes."""
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("RssAnon")).split()[1])


def measure(function, *arguments) -> None:
    """Calls a function and prints {seconds, before, peak} as JSON, memory in bytes."""
    before, done, peak = anonymous_memory(), threading.Event(), [0]

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        function(*arguments)
    finally:
        done.set()
        watcher.join()
    print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak[0]}))


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=14, help="67 million parameters each")
    parser.add_argument("--dtype", choices=tuple(convert.DTYPES), default="bfloat16")
    parser.add_argument("--folder", help="directory for 10 bytes per parameter of temporary files")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)  # function, source, target
    options = parser.parse_args()
    if options.only:
        function, source, target = options.only
        measure(getattr(convert, function), source, target)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        count = make_model(folder / "hf", options.layers, options.dtype)
        larger = 4 * count  # bytes of a run, which is float32
        print(f"{count:,} parameters, {options.dtype} in the Hugging Face directory, "
              f"{larger / 1e9:.2f} GB in the run")  # fmt: skip
        for function, source, target in (("from_hf", "hf", "run"), ("to_hf", "run", "back")):
            arguments = [function, str(folder / source), str(folder / target)]
            command = [sys.executable, "-m", "benchmarks.conversion", "--only", *arguments]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(out.splitlines()[-1])
            growth = found["peak"] - found["before"]
            print(
                f"{function}: {growth / 1e9:.2f} GB more than the {found['before'] / 1e9:.2f} GB at the "
                f"start, {growth / larger:.2f} of the larger copy; {found['seconds']:.0f} s"
            )


if __name__ == "__main__":
    main()

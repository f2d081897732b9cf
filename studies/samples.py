"""What the pretrained models of a study write: the masks of a text filled, or a prompt continued.

Called by studies/three_ways.py.
"""

from generation import FillConfig
from tools.filler import Filler
from tools.generator import Generator
from training.config import ConfigError

# Plain prose about Python, which `python_docs` has much of.
MASKED = "Return the [MASK] of the file."
PROMPT = "Return the"
NUM_FILLS = 3
GENERATION = {
    "max_new_tokens": 24,
    "temperature": 0.8,
    "top_p": 0.9,
    "num_return_sequences": NUM_FILLS,
}


def of_run(run):
    """{'input', 'outputs': [[probability or None, text], ...]} of a pretraining run, best first; {} if it
    neither fills masks nor generates.

    A model that fills masks gets `MASKED`, another one continues `PROMPT` with samples of seed 0.
    """
    try:
        return _fill(Filler(str(run)))
    except ConfigError:
        pass
    try:
        return _continue(Generator(str(run)))
    except ConfigError:
        return {}


def _fill(filler):
    text = filler.parse("the sample", MASKED)
    config = FillConfig(num_return_sequences=NUM_FILLS)
    record = filler.fill([text], [filler.row(text)], config, seeds=[0])[0]
    return {
        "input": MASKED,
        "outputs": [[each["probability"], each["text"]] for each in record["fills"]],
    }


def _continue(generator):
    config = generator.config(GENERATION)
    requests = generator.check_lengths(generator.requests([PROMPT]), config)
    completions = generator.complete(requests, config)[0]
    return {"input": PROMPT, "outputs": [[None, PROMPT + each.text] for each in completions]}

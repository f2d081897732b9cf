"""The learning rate of pretraining: a grid for one architecture, by its validation loss.

python -m tools.sweep --config=configs/sweeps/learning_rate.py --workdir=runs/lr
... --config=configs/sweeps/learning_rate.py:architecture=decoder,size=mini,duration=2000_steps
... --halving=3                                    # the worst learning rates stop early
"""

from configs import base
from sweeps import Sweep, fixed, grid, train


def get_sweep(arg=""):
    """Five learning rates.

    Args:
      arg: comma-separated NAME=VALUE:
        architecture: encoder (default), decoder, encoder_decoder.
        size: tiny (default), ... of models/presets.py.
        duration: such as 400_steps (default).
        seeds: number of seeds of each learning rate, 1 by default.
    """
    given = base.parse(arg, architecture="encoder", size="tiny", duration="400_steps", seeds="1")
    space = fixed(duration=given["duration"].replace("_", " "), evaluation__every="5 %") * grid(
        lr=[3e-4, 1e-3, 2e-3, 4e-3, 8e-3], seed=range(int(given["seeds"]))
    )
    config = f"configs/{given['architecture']}.py:size={given['size']}"
    return Sweep(train(config, space), title=f"Learning rate of the {given['architecture']}")

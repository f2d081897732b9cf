"""One tree of arrays in a checkpoint, through Orbax: its shapes, its arrays, and errors that name the file.

Used by training/checkpoint.py, which knows what the trees of a run are.
"""

import jax
import orbax.checkpoint as ocp
from etils import epath

from training import paths
from training.config import ConfigError
from training.param_rules import key_name


def is_corrupt(error):
    """True for what Orbax and TensorStore raise about a file that is missing, truncated or altered.

    Storage or memory trouble and programming errors are none of these: no checkpoint is renamed.
    """
    return type(error) is Exception or isinstance(error, (ValueError, KeyError, FileNotFoundError))


def check_fits(found, target, what):
    """Raises ConfigError unless names, shapes and dtypes of two trees are the same."""
    found, target = flatten(found), flatten(target)
    problems = [f"missing {path}" for path in sorted(target.keys() - found.keys())]
    problems += [f"unexpected {path}" for path in sorted(found.keys() - target.keys())]
    for path in sorted(found.keys() & target.keys()):
        has, expected = (f"{tree[path].dtype}{list(tree[path].shape)}" for tree in (found, target))
        if has != expected:
            problems.append(f"{path} is {has}, expected {expected}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(
            f"{what} does not fit this config: {'; '.join(problems[:3])}{more}; use the config it was made "
            f"with, or another --workdir"
        )


def flatten(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key_name(key) for key in path): leaf for path, leaf in leaves}


def attempt(read, *arguments):
    """(result, None), or (None, the error) if a file is corrupt."""
    try:
        return read(*arguments), None
    except Exception as error:
        if not is_corrupt(error):
            raise
        return None, error


def explained(read, folder, *arguments):
    result, error = attempt(read, paths.absolute(folder), *arguments)
    if error:
        raise unreadable(folder, error, "use another step of that run (RUN@STEP)") from error
    return result


def unreadable(folder, error, remedy):
    reason = " ".join(str(error).split())[:160]
    return ConfigError(f"checkpoint {folder} cannot be read ({reason}); {remedy}")


# Orbax's handler without its Checkpointer, which waits for all processes: it would wait forever if a file
# is corrupt for one of them alone.
def metadata(folder):
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(tuple(m.shape), m.dtype), tree)


def read_tree(folder, target, partial=False):
    arguments = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=partial,
    )
    return ocp.PyTreeCheckpointHandler().restore(epath.Path(folder), args=arguments)

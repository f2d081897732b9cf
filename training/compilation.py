"""`jax.jit` that says when it compiles: a line before, and one with the time it took.

Every function that the entry files compile goes through it, so that no compilation is silent.
"""

import functools
import inspect

import jax

from training import logs


def announced_jit(what: str, **options):
    """A decorator: `jax.jit` with a line in the log before each compilation, and one after it.

    Args:
      what: the function in a few words, such as 'the train step'.
      **options: of jax.jit; static_argnums is a tuple. Where the function has arguments `task`
        (static) and `inputs`, the line names their shape (`LoadedTask.describe_shape`).
    """

    def decorate(function):
        jitted, names = jax.jit(function, **options), list(inspect.signature(function).parameters)
        static = options.get("static_argnums", ())
        seen = {}  # hash of the static arguments and of the others' structures -> shapes of the inputs

        @functools.wraps(function)
        def call(*arguments):
            others = [x for n, x in enumerate(arguments) if n not in static]
            program = (
                *(arguments[n] for n in static),
                *map(jax.tree.structure, others),
                jax.sharding.get_abstract_mesh(),
            )
            task, inputs = (
                arguments[names.index(name)] if name in names else None
                for name in ("task", "inputs")
            )
            shape = tuple(x.shape for x in jax.tree.leaves(inputs))
            shapes = seen.setdefault(hash(program), set())
            if shape in shapes or any(
                isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(others)
            ):
                return jitted(*arguments)
            shapes.add(shape)
            text = what
            if inputs is not None and task is not None and task.num_shapes > 1:
                text += f" for {task.describe_shape(inputs)} ({len(shapes)} of at most {task.num_shapes})"
            with logs.compiling(text):
                return jitted(*arguments)  # returns before it has run

        call.lower, call.trace = jitted.lower, jitted.trace
        return call

    return decorate

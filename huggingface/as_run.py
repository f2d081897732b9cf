"""as_run: a Hugging Face directory as a run directory, so that `init_from` accepts either.
A directory is imported once into the cache, and is a run from then on.
"""

import dataclasses
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable

from data.files import cache_directory, content_hash, digest, locked
from huggingface.convert import from_hf
from huggingface.electra_pair import GENERATOR
from huggingface.weights import read_json
from models import ModelConfig
from training import paths
from training.config import ConfigError

_log = logging.getLogger("triptych")
_FORMAT = 5  # increased when the same directory would become a different run
# Files that determine the run, and so its name in the cache.
_FILES = re.compile(r".*\.safetensors(\.index\.json)?|(generation_)?config\.json|.*token.*\.json"
                    r"|vocab\.(txt|json)|merges\.txt|.*\.model|.*\.jinja")  # fmt: skip


def as_run(path: str, cache_dir: str = "", log: Callable[[str], None] = _log.info) -> str:
    """The run directory for a Hugging Face directory; any other path is returned unchanged.

    The run's name in the cache is a digest of the directory's files. One process imports it; others
    wait. Raises ConfigError for a model that is not supported."""
    config = pathlib.Path(path) / "config.json"
    if not paths.remote(path) and (config.parent / "adapter_config.json").is_file():
        raise ConfigError(
            f"{path!r} is an adapter of PEFT; python -m tools.convert from_peft {path} RUN_DIR makes a run "
            f"of it"
        )
    if paths.remote(path) or not config.is_file() or "model_type" not in read_json(config):
        return path
    source = config.parent.resolve()
    folders = [folder for folder in (source, source / GENERATOR) if folder.is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    files = [file for file in files if _FILES.fullmatch(file.name) and file.is_file()]
    fields = [field.name for field in dataclasses.fields(ModelConfig)]  # another version has others
    contents = [(str(file.relative_to(source)), content_hash(str(file))) for file in files]
    identity = digest(_FORMAT, fields, contents)
    folder = cache_directory(cache_dir) / "huggingface"
    folder.mkdir(exist_ok=True)
    run = folder / f"{re.sub(r'[^a-zA-Z0-9.-]', '_', source.name)[:40]}-{identity[:16]}"
    with locked(run.with_name(run.name + ".lock"), log):
        if not run.is_dir():
            partial = run.with_name(f"{run.name}.tmp-{os.getpid()}")
            try:
                description = from_hf(str(source), str(partial))
                os.replace(partial, run)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            log(f"imported {description}: {run}")
    return str(run)

"""`python -m tools.prepare --config=configs/decoder.py`: makes tokenizer and token stores before a run.

Needed before a run of several processes; a single process makes them itself.
"""

import logging
import os

from training import cli
from training import config as config_lib

log = logging.getLogger("triptych")


def main(argv: list[str]) -> None:
    """Makes or opens the data of a pretraining config and prints a summary. Raises ConfigError or ValueError
    if its `init_from` has another tokenizer than the data."""
    given, config = cli.parse_args(argv, __doc__)
    os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator is for the run
    import huggingface
    from data.prepare import prepare
    from training import checkpoint, init_from, paths, print_config
    from training.schema import PretrainConfig

    resolved = config_lib.resolve(PretrainConfig, config)
    if given.print_config:
        print_config.show(given.print_config, resolved, config)
        return
    tokenizer, checks = resolved.tokenizer, {}
    if resolved.init_from:
        # A Hugging Face model brings its tokenizer, and a run has one to compare with.
        found = huggingface.as_run(resolved.init_from, resolved.data.cache_dir)
        if checkpoint.steps_of(checkpoint.split_step(found)[0]):
            run_dir = paths.of(os.devnull)  # the run does not exist yet
            pretrained = init_from.resolve_for_pretraining(resolved, run_dir, lambda *_: found)
            tokenizer, checks = pretrained.config.tokenizer, {"check": pretrained.check_tokenizer}
        else:
            log.info(
                f"init_from={resolved.init_from!r} has no checkpoints yet; using the tokenizer of this config"
            )
    corpus = prepare(resolved.data, tokenizer, log=log.info, **checks)
    for store, weight in zip(corpus.train, corpus.weights, strict=True):
        print(
            f"train       {store.source}: weight {weight:.3f}, {store.num_documents:,} documents, "
            f"{store.num_tokens:,} tokens, {store.num_bytes:,} bytes of text"
        )
    for store in corpus.validation:
        print(
            f"validation  {store.source}: {store.num_documents:,} documents, {store.num_tokens:,} tokens"
        )
    print(f"tokenizer   {corpus.tokenizer.size:,} tokens, {corpus.tokenizer.fingerprint}")
    for line in corpus.describe_unknown():
        print(f"unknown     {line}")
    for name, digest in corpus.contents.items():
        print(f"contents    {digest} {name}")
    print(f"fingerprint {corpus.fingerprint}")


if __name__ == "__main__":
    cli.main(main, resumes=True)

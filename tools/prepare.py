"""`python -m tools.prepare --config=configs/decoder.py`: tokenizer and token stores ahead of a run.

Needed before a run of several processes; a single process calls `data.prepare` by itself.
"""

import logging

import train
from data.prepare import prepare
from training import cli
from training import config as configs

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Prepares the data of a pretraining config (or opens what is there) and says what there is."""
    given, config = cli.arguments(argv, __doc__.splitlines()[0])
    resolved = configs.resolve(train.Config, config)
    if given.print_config:
        print("\n".join(configs.describe(resolved, config)))
        return
    prepared = prepare(resolved.data, resolved.tokenizer, log=log.info)
    for store, weight in zip(prepared.train, prepared.weights, strict=True):
        print(
            f"train       {store.source}: weight {weight:.3f}, {store.documents:,} documents, "
            f"{store.tokens:,} tokens, {store.bytes:,} bytes of text"
        )
    for store in prepared.validation:
        print(f"validation  {store.source}: {store.documents:,} documents, {store.tokens:,} tokens")
    print(f"tokenizer   {prepared.tokenizer.size:,} pieces, {prepared.tokenizer.fingerprint}")
    for name, digest in prepared.contents.items():
        print(f"contents    {digest} {name}")
    print(f"fingerprint {prepared.fingerprint}")


if __name__ == "__main__":
    cli.main(main)

"""IMDB (Maas et al. 2011): the sentiment of film reviews, from any pretrained run or Hugging Face directory.

    python finetune.py --config=configs/finetune/imdb.py --workdir=runs/imdb --config.init_from=PATH
    ... --config.task.source='files:/path/{train,test}.jsonl'

The published reference is a test accuracy of 95.63 % (BERT-base of 512 tokens, pretrained further on the
texts; Sun et al. 2019).
"""

from configs.glue import recipe


def get_config():
    """The recipe of configs/glue.py with long texts; `length_group_steps` groups texts of similar length."""
    task = {"source": "tfds:imdb_reviews", "text_column": "text", "max_seq_len": 512}
    return recipe(task | {"length_group_steps": 16}, batch_size=16)

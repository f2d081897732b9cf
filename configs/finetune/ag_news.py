"""AG News (Zhang et al. 2015): four topics of news, from any pretrained run or Hugging Face directory.

    python finetune.py --config=configs/finetune/ag_news.py --workdir=runs/ag --config.init_from=PATH
    ... --config.task.source='files:/path/{train,test}.jsonl' --config.task.text_column=text \\
        --config.task.text_pair_column=        # for files without a title

The published reference is a test error of 4.80 % (BERT-base, pretrained further on the texts; Sun et al.
2019): an accuracy of 0.952.
"""

from configs.glue import recipe


def get_config():
    """The recipe of configs/glue.py. TFDS has the title and the description of a text."""
    return recipe(
        {"source": "tfds:ag_news_subset", "text_column": "title", "text_pair_column": "description"}
    )

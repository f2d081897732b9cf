"""Tasks: the data, losses and metrics of a run. A new task is a file, and a line in `TASKS`.

Imports data/, models/ and objectives/; trained by train.py and finetune.py through tasks/base.py.
"""

from tasks.base import LoadedTask, Task, evaluate
from tasks.classification import Classification
from tasks.multi_label import MultiLabel
from tasks.multiple_choice import MultipleChoice
from tasks.pretraining import Pretraining
from tasks.question_answering import QuestionAnswering
from tasks.regression import Regression
from tasks.seq2seq import Seq2seq
from tasks.tagging import Tagging
from tasks.text_to_text import TextToText

TASKS = {
    task.name: task
    for task in (
        *(Pretraining, Classification, Regression, MultiLabel, MultipleChoice),
        *(Tagging, QuestionAnswering, Seq2seq, TextToText),
    )
}
# The tasks that finetune.py trains: variants of the config section `task`.
FINETUNE_TASKS = {name: task for name, task in TASKS.items() if task is not Pretraining}

__all__ = ["FINETUNE_TASKS", "TASKS", "LoadedTask", "Task", "evaluate"]

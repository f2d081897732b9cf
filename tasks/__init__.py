"""Tasks: the data, losses and metrics of a run. A new task is a file, and a line in `TASKS`.

Imports data/, models/ and objectives/; trained by train.py and finetune.py through tasks/base.py.
"""

from tasks.base import LoadedTask, Task, evaluate
from tasks.classification import Classification
from tasks.pretraining import Pretraining

TASKS = {task.name: task for task in (Pretraining, Classification)}
# The tasks that finetune.py trains: variants of the config section `task`.
FINETUNE_TASKS = {name: task for name, task in TASKS.items() if task is not Pretraining}

__all__ = ["FINETUNE_TASKS", "TASKS", "LoadedTask", "Task", "evaluate"]

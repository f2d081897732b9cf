"""The scores of finished replicas: a file for each, and a summary with means, intervals and the best.

Called at the end of finetune.py; a run alone is one replica without a summary.
"""

import dataclasses
import json
import logging

import numpy as np

from tasks.sums import format_metrics
from training import paths, run_directory, sharding
from training.replicas import FAILED, Replica
from training.run_directory import Result

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A replica with its updates, the checkpoint that is scored, and {'test/accuracy': value, ...};
    `floor` has the scores of the constant prediction, those that it can have."""

    replica: Replica
    step: int
    scored_step: int
    scores: dict
    floor: dict
    best_metric: str


def write_scores(writers, task, step, scored_steps, scored) -> list[Finished]:
    """Writes predictions and scores.json of each replica, without those that were left out.

    Args:
      writers: replicas.ReplicaWriters.
      step: updates that each holds.
      scored_steps: the checkpoint of each that is scored.
      scored: {split: ([predictions of each], [its {metric: value}])}.
    """
    finished = []
    for number, (replica, scored_step) in enumerate(zip(writers.group, scored_steps, strict=True)):
        if number in writers.failed:
            continue
        scores, floor, notes = {}, {}, {}
        for split, (predictions, values) in scored.items():
            if sharding.is_main_process():
                task.write_predictions(replica.folder, split, predictions[number])
            if values[number]:
                floor |= {f"{split}/{name}": v for name, v in task.constant_scores(split).items()}
                own = f"{replica.name}: " if replica.name else ""
                metrics = format_metrics(values[number], {})
                log.info(f"{own}{split}, step {scored_step:,}: {metrics}")
            scores |= {f"{split}/{name}": value for name, value in values[number].items()}
            for name, note in task.score_notes(predictions[number]).items():
                notes[f"{split}/{name}"] = note
                log.info(f"{split}/{name}: {note}")
        if sharding.is_main_process():
            record = {"step": scored_step, **scores, **({"signatures": notes} if notes else {})}
            run_directory.write_json(replica.folder / "scores.json", record)
        finished.append(Finished(replica, step, scored_step, scores, floor, task.best_metric))
    return finished


def finish(workdir, finished: list[Finished]) -> Result:
    """The Result of a run; that of replicas has the means at the best learning rate, and writes
    replicas.json with all scores and their statistics."""
    if not finished[0].replica.name:
        [one] = finished
        return Result(one.step, one.scores, str(one.replica.folder))
    folder = paths.of(workdir)
    failed = {path.parent.name: _update(path) for path in sorted(folder.glob(f"*/{FAILED}"))}
    summary = summarize(finished) | {"failed": failed}
    if sharding.is_main_process():
        run_directory.write_json(folder / "replicas.json", summary)
    for line in describe(summary):
        log.info(line)
    best = summary["groups"][summary["best"]]
    means = {k: v["mean"] for k, v in best.items() if isinstance(v, dict) and "mean" in v}
    return Result(finished[0].step, means, str(folder))


def _update(path):
    return json.loads(path.read_text(encoding="utf-8"))["update"]


def summarize(finished: list[Finished]) -> dict:
    """The summary of finished replicas. The task's best metric on validation chooses the learning rate; where
    the final scores lack it (no text was generated), the loss does.

    Returns:
      {'replicas': {name: {'seed', 'learning_rate', 'step', metric: value}}, 'groups': [{'learning_rate',
      'replicas': number, metric: statistics, 'degenerate': {metric: number of replicas that are not better
      than the constant prediction}}], 'best': index of the group, 'chosen_by': metric}.
    """
    best_metric = finished[0].best_metric
    sign = -1.0 if best_metric[0] == "-" else 1.0
    groups, rows = {}, {}
    for each in finished:
        config = each.replica.config
        rate = config.optimizer.learning_rate
        groups.setdefault(rate, []).append(each)
        about = {"seed": config.seed.data, "learning_rate": rate, "step": each.scored_step}
        rows[each.replica.name] = about | each.scores
    found = []
    for rate, members in groups.items():
        entry = {"learning_rate": rate, "replicas": len(members)}
        for metric in members[0].scores:
            entry[metric] = statistics([each.scores[metric] for each in members])
        entry["degenerate"] = {
            metric: sum(sign * each.scores[metric] <= sign * floor for each in members)
            for metric, floor in members[0].floor.items()
        }
        found.append(entry)
    chosen_by = f"validation/{best_metric[1:]}"
    if chosen_by not in finished[0].scores:
        chosen_by, sign = "validation/loss", -1.0
    values = [sign * group.get(chosen_by, {"mean": 0.0})["mean"] for group in found]
    return {
        "replicas": rows, "groups": found, "best": max(range(len(values)), key=values.__getitem__),
        "chosen_by": chosen_by,
    }  # fmt: skip


def statistics(values) -> dict:
    """{'mean', 'sd', 'interval95': half of Student's 95 % interval of the mean, 'min', 'max'}.

    sd and interval95 are 0 for one value.
    """
    from scipy import stats

    count, sd = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    half = float(stats.t.ppf(0.975, count - 1)) * sd / count**0.5 if count > 1 else 0.0
    return {
        "mean": float(np.mean(values)), "sd": sd, "interval95": half,
        "min": float(min(values)), "max": float(max(values)),
    }  # fmt: skip


def describe(summary) -> list[str]:
    """Lines about a summary for the log."""
    lines = []
    for number, group in enumerate(summary["groups"]):
        several = len(summary["groups"]) > 1
        rate = f"learning_rate {group['learning_rate']:g}: " if several else ""
        for key, value in group.items():
            if isinstance(value, dict) and "mean" in value:
                lines.append(
                    f"{rate}{key} {value['mean']:.4f} ± {value['interval95']:.4f} (95 %), s.d. "
                    f"{value['sd']:.4f}, {value['min']:.4f} to {value['max']:.4f}, "
                    f"{group['replicas']} replicas"
                )
        for key, count in group["degenerate"].items():
            if count:
                lines.append(
                    f"{rate}{count} of {group['replicas']} replicas have degenerated: {key} is not better "
                    "than that of the best constant prediction"
                )
        if several and number == summary["best"]:
            lines.append(f"{rate}the best one by {summary['chosen_by']}")
    for name, update in summary.get("failed", {}).items():
        lines.append(f"{name} failed at update {update}, which was not finite")
    return lines

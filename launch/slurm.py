"""Slurm: one sbatch script for one node or many, or an array of runs.

The tasks of a run get SIGTERM before the time limit, save and exit with 143; the script then requeues the
job, which resumes. A canceled job is not requeued: `cancel` sends its script SIGUSR1, scancel SIGTERM.
"""

import shlex

from launch.job import Job, Rendering, require_bucket, script, workdir_of
from training.config import ConfigError

FLAGS = (
    ("--nodes", {"type": int, "default": 1, "help": "nodes of a run"}),
    ("--tasks_per_node", {"type": int, "default": 1, "help": "processes on each node; one per GPU is usual"}),
    ("--gpus_per_node", {"type": int, "default": 0}),
    ("--cpus_per_task", {"type": int, "default": 0}),
    ("--mem", {"default": "", "help": "memory per node, such as 64G"}),
    ("--time", {"default": "", "help": "time limit, such as 12:00:00"}),
    ("--partition", {"default": ""}),
    ("--account", {"default": ""}),
    ("--signal_seconds", {"type": int, "default": 300, "help": "time before the limit in which a run saves"}),
    ("--shared_filesystem", {"action": "store_true", "help": "all nodes see the workdir and the cache"}),
    ("--max_parallel", {"type": int, "default": 0, "help": "runs of an array at the same time; 0: all"}),
    ("--setup", {"action": "append", "default": [], "metavar": "LINE",
                 "help": "shell line before the run, such as 'module load cuda'; repeatable"}),
    ("--sbatch", {"action": "append", "default": [], "metavar": "OPTION",
                  "help": "further option, such as --constraint=a100; repeatable"}),
)  # fmt: skip
takes_arrays, is_remote, requires = True, False, ()


def render(job: Job, given) -> Rendering:
    """Raises ConfigError for a workdir that not all nodes share."""
    for flag in ("nodes", "tasks_per_node", "signal_seconds"):
        if getattr(given, flag) < 1:
            raise ConfigError(f"--{flag}={getattr(given, flag)}: expected at least 1")
    if given.nodes > 1 and not given.shared_filesystem:
        for words in job.commands:
            require_bucket(
                workdir_of(words), f"{given.nodes} nodes need one that all of them reach",
                ", or --shared_filesystem if it is on a disk that all nodes mount",
            )  # fmt: skip
    tasks, is_array = given.nodes * given.tasks_per_node, len(job.commands) > 1
    folder = job.folder / "logs"
    ids = "%A_%a" if is_array else "%j"
    options = {
        "job-name": job.name,
        "nodes": given.nodes,
        "ntasks-per-node": given.tasks_per_node,
        "gpus-per-node": given.gpus_per_node,
        "cpus-per-task": given.cpus_per_task,
        "mem": given.mem,
        "time": given.time,
        "partition": given.partition,
        "account": given.account,
        "array": is_array and f"0-{len(job.commands) - 1}{_limit(given.max_parallel)}",
        # The same launch, submitted twice, runs twice in turn: the second resumes or has nothing to do.
        "dependency": "" if is_array else "singleton",
        "signal": f"TERM@{given.signal_seconds}",
        "open-mode": "append",
        "output": folder / f"{ids}.log",
    }
    header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    header += ["#SBATCH --requeue", *(f"#SBATCH {each}" for each in given.sbatch)]
    path = shlex.quote(str(job.folder / "task.sh"))
    wait = "--kill-on-bad-exit=0 --wait=300"  # time in which the others report and save
    lines = [
        "is_canceled=0",
        "trap 'is_canceled=1' TERM USR1",
        *([f"bash {path} prepare"] if tasks > 1 and job.prepare() else []),
        '[ "$is_canceled" -eq 0 ] || exit 143',
        "status=0",
        f"srun {wait} --open-mode=append --output={shlex.quote(str(folder / f'{ids}-task%t.log'))} "
        f'bash {path} || status="$?"',
        'echo "the run ended with status $status"',
        'if [ "$status" -eq 143 ] && [ "$is_canceled" -eq 0 ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]
    files = {
        "job.sbatch": script(f"{job.name}: submit with sbatch", lines, [*header, *given.setup]),
        "task.sh": job.joined(tasks).script_here(),
    }
    actions = {
        "submit": [["sbatch", "--parsable", str(job.folder / "job.sbatch")]],
        "status": [["scontrol", "--oneliner", "show", "job", "{job}"]],
        "logs": [["bash", "-c", f"tail -n 20 {shlex.quote(str(folder))}/*.log"]],
        # Signals alone, so that no limit but the run's ends the save. SIGTERM to the script would reach srun,
        # which kills its tasks.
        "cancel": [
            ["scancel", "--state=PENDING", "{job}"],
            ["scancel", "--batch", "--signal=USR1", "{job}"],
            ["scancel", "--signal=TERM", "{job}"],
        ],
    }
    return Rendering(files, actions)


def _limit(count):
    return f"%{count}" if count > 0 else ""

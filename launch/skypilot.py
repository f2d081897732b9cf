"""SkyPilot: a task for `sky jobs launch`, which starts it elsewhere when its machines are taken away."""

from launch import tpus, yaml_text
from launch.job import Job, Rendering, require_bucket, workdir_of
from training.config import ConfigError

FLAGS = (
    ("--gpus", {"default": "", "help": "such as H100:8; --topology is a TPU slice instead"}),
    ("--nodes", {"type": int, "default": 1, "help": "machines with these GPUs; a process on each"}),
    ("--infra", {"default": "", "help": "cloud, region or zone, such as gcp/us-central1; '': the cheapest"}),
    ("--spot", {"action": "store_true", "help": "machines that may be taken away"}),
    ("--repository", {"default": "", "help": "where the machines clone from; '': the remote origin"}),
)  # fmt: skip
takes_arrays, is_remote, requires = False, True, ()
PORT = 8476


def render(job: Job, given) -> Rendering:
    require_bucket(workdir_of(job.command), "the disks of these machines are deleted with them")
    is_tpu = bool(given.topology) and not given.gpus
    if not (is_tpu or given.gpus) or given.nodes < 1 or (is_tpu and given.nodes > 1):
        raise ConfigError(
            "expected --gpus=H100:8 with --nodes of at least 1, or a TPU slice, --topology=v5e:4x4"
        )
    resources = {"accelerators": given.gpus}
    if is_tpu:
        found = tpus.slice_of(given.topology)
        resources = {
            "accelerators": f"tpu-{found.accelerator}",
            "accelerator_args": {"runtime_version": found.kind.runtime},
        }
    resources |= {
        **({"infra": given.infra} if given.infra else {}),
        "use_spot": given.spot,
        # 143: training.max_hours, or a machine that is taken away.
        "job_recovery": {"recover_on_exit_codes": [143], "max_restarts_on_errors": 3},
    }
    extra = "tpu" if is_tpu else "cuda"
    install = [
        "uv venv --quiet --clear --python 3.11 ../venv",
        f"uv pip install --quiet --python ../venv/bin/python --editable '.[{extra},gcs]'",
        'export PATH="$PWD/../venv/bin:$PATH"',
    ]
    joined = []
    if is_tpu:
        job = job.joined(found.hosts)
    elif given.nodes > 1:
        joined = [
            'first="$(head -n 1 <<<"$SKYPILOT_NODE_IPS")"',
            f'export JAX_COORDINATOR_ADDRESS="$first:{PORT}"',
            'export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"',
        ]
    task = {
        "name": job.name,
        "num_nodes": given.nodes,
        "resources": resources,
        "setup": "command -v uv >/dev/null || python3 -m pip install --quiet --user uv\n",
        "run": "\n".join(["set -euo pipefail", 'export PATH="$HOME/.local/bin:$PATH"', *joined,
                          *job.script_there(install)]) + "\n",
    }  # fmt: skip
    file, name = str(job.folder / "skypilot.yaml"), f"--name={job.name}"
    actions = {
        "submit": [["sky", "jobs", "launch", "--yes", "--detach-run", name, file]],
        "status": [["sky", "jobs", "queue"]],
        "logs": [["sky", "jobs", "logs", name, "--no-follow"]],
        "cancel": [["sky", "jobs", "cancel", "--yes", name]],
    }
    return Rendering({"skypilot.yaml": yaml_text.dump(task)}, actions, given.topology)

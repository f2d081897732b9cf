"""Cloud TPU VMs: a queued resource whose workers start the run when they boot, all of them.

The startup script makes a systemd unit of the run, so that a spot VM that is taken away, `cancel` and a
shutdown all send SIGTERM first. A worker that boots again resumes.
"""

from launch import tpus
from launch.job import Job, Rendering, require_bucket, script, workdir_of

FLAGS = (
    ("--project", {"required": True, "help": "Google Cloud project"}),
    ("--zone", {"required": True, "help": "such as us-west4-a"}),
    ("--runtime", {"default": "", "help": "software version of the VMs; '': the one for the TPU version"}),
    ("--spot", {"action": "store_true", "help": "VMs that may be taken away"}),
    ("--service_account", {"default": "", "help": "of the VMs; it writes to the bucket"}),
    ("--repository", {"default": "", "help": "where the workers clone from; '': the remote origin"}),
)  # fmt: skip
takes_arrays, is_remote, requires = False, True, ("topology",)
# The image has Python 3.10; uv brings a newer one.
INSTALL = [
    "command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh",
    'export PATH="$HOME/.local/bin:$PATH"',
    "uv venv --quiet --clear --python 3.11 ../venv",
    "uv pip install --quiet --python ../venv/bin/python --editable '.[tpu,gcs]'",
    'export PATH="$PWD/../venv/bin:$PATH"',
]


def render(job: Job, given) -> Rendering:
    require_bucket(workdir_of(job.command), "the disks of TPU VMs are deleted with them")
    place = [f"--project={given.project}", f"--zone={given.zone}"]
    found = tpus.slice_of(given.topology)
    run = script(
        f"{job.name}: one process of the run", job.joined(found.hosts).script_there(INSTALL, "/opt")
    )
    startup = [
        "export HOME=/root",
        f"mkdir -p /opt/{job.name}",
        f"cat >/opt/{job.name}/task.sh <<'TASK'",
        f"{run}TASK",
        f"systemctl stop {job.name} 2>/dev/null || true",
        "# The main process is Python after `exec`; it has 10 minutes to save.",
        f"systemd-run --unit={job.name} --collect --setenv=HOME=/root --property=KillMode=mixed "
        f"--property=TimeoutStopSec=600 bash /opt/{job.name}/task.sh",
    ]
    create = [
        "gcloud", "compute", "tpus", "queued-resources", "create", job.name, f"--node-id={job.name}", *place,
        f"--accelerator-type={found.accelerator}",
        f"--runtime-version={given.runtime or found.kind.runtime}",
        f"--metadata-from-file=startup-script={job.folder / 'startup.sh'}",
    ]  # fmt: skip
    create += ["--spot"] * given.spot
    create += [f"--service-account={given.service_account}"] * bool(given.service_account)

    def on_all(command):
        words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", job.name, *place, "--worker=all"]
        return [[*words, f"--command={command}"]]

    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    actions = {
        "submit": [create],
        "run": on_all("sudo google_metadata_script_runner startup"),
        "status": [[*queued, "describe", job.name, *place, "--format=value(state.state)"]],
        "logs": on_all(f"uname -n; sudo journalctl --unit={job.name} --lines=20 --no-pager"),
        "cancel": on_all(f"sudo systemctl stop {job.name}"),
        "delete": [[*queued, "delete", job.name, *place, "--force", "--quiet"]],
    }
    return Rendering({"startup.sh": script(f"{job.name}: every worker at its boot", startup)}, actions,
                     given.topology)  # fmt: skip

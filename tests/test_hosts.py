"""Processes that differ, fail, die or never come are named in one line by all others, within seconds.

Real processes over loopback.
"""

import os
import re
import shutil
import sys
import time

import pytest
import tiny_configs
from processes import addressed, launch, slurm

from data import prepare
from training import config as config_lib
from training import hosts
from training.config import ConfigError
from training.schema import PretrainConfig

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the corpus and the token store in it, and copies for other homes."""
    folder = tmp_path_factory.mktemp("hosts")
    for name, seed in (("a", 0), ("b", 0), ("other", 1)):
        (folder / name).mkdir()
        tiny_configs.corpus(folder / name, seed=seed)
        for home in ("~", folder / name):  # a store is named by the source as it is written
            config = config_lib.resolve(
                PretrainConfig, tiny_configs.pretraining(folder / name, **at(home))
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HOME", str(folder / name))
                prepare.prepare(config.data, config.tokenizer, log=lambda line: None)
    return folder


def at(home):
    return {"data__source": f"text:{home}/corpus.txt", "data__cache_dir": f"{home}/cache"}


def command(folder, name, home="~", **overrides):
    """train.py with the corpus and the caches of the home directory of the process."""
    config = tiny_configs.pretraining(folder / "a", **at(home) | overrides)
    return [sys.executable, "train.py", "--config=configs/decoder.py", f"--workdir={folder}/{name}",
            *tiny_configs.flags(config)]  # fmt: skip


def homes(*folders, cluster=addressed):
    return [
        {**own, "HOME": str(home)} for own, home in zip(cluster(len(folders)), folders, strict=True)
    ]


def errors(outputs):
    """The line of the error of each process; none prints a traceback."""
    assert not any("Traceback" in output for output in outputs), "\n".join(outputs)
    found = [re.findall("^error: (.*)$", output, re.MULTILINE) for output in outputs]
    assert all(len(lines) == 1 and len(lines[0]) <= 400 for lines in found), "\n".join(outputs)
    return [lines[0] for lines in found]


def test_processes_with_different_configs_name_the_field_within_seconds(folder):
    commands = [command(folder, "configs", folder / "a", seed__data=i) for i in range(2)]
    codes, outputs = launch(commands, 1)
    first, second = errors(outputs)
    assert codes == [1, 1] and first == second
    assert re.match(
        r"process 1 on .* differs from process 0 on .*: config.seed.data is 1, not 0;", first
    )


@slow
def test_tasks_of_slurm_join_train_and_write_a_profile_each(folder):
    commands = [command(folder, "slurm", folder / "a", profile="1:2")] * 2
    codes, outputs = launch(commands, 1, slurm(2))
    assert codes == [0, 0], "\n".join(outputs)
    assert ", 2 processes" in outputs[0]
    assert "from step 1 to step 2" in outputs[0] and "from step 1" not in outputs[1]
    for index in range(2):
        assert any((folder / f"slurm/profile/process_{index}").rglob("*.xplane.pb"))


@slow
def test_processes_with_different_data_name_the_file(folder):
    commands = [command(folder, "data")] * 2
    codes, outputs = launch(commands, 1, homes(folder / "a", folder / "b"))
    assert codes == [0, 0], "\n".join(outputs)
    codes, outputs = launch([command(folder, "more")] * 2, 1, homes(folder / "a", folder / "other"))
    first, second = errors(outputs)
    assert codes == [1, 1] and first == second
    assert "process 1 on " in first and re.search("data is '.*', not '", first), first


@slow
def test_processes_with_different_checkpoints_name_the_directory(folder):
    (folder / "own").mkdir()
    alone = command(folder, "b/own-run", folder / "a")
    codes, outputs = launch([alone], 1)
    assert codes == [0], outputs
    shutil.copytree(folder / "b/own-run", folder / "own/b/own-run")
    shutil.rmtree(folder / "own/b/own-run/checkpoints/2")
    other = command(folder / "own/..", "own/b/own-run", folder / "a")
    codes, outputs = launch([alone, other], 1)
    first, second = errors(outputs)
    assert codes == [1, 1] and first == second
    assert "the newest checkpoint of own-run is 1, not 2" in first


@slow
def test_a_process_that_fails_at_its_data_is_named_with_its_error(folder, tmp_path):
    codes, outputs = launch([command(folder, "fails")] * 2, 1, homes(folder / "a", tmp_path))
    first, second = errors(outputs)
    assert (
        codes == [1, 1] and first == f"process 1 stopped: {second}" and "no file matches" in second
    )
    codes, outputs = launch([command(folder, "fails")] * 2, 1, homes(tmp_path, folder / "a"))
    first, second = errors(outputs)
    assert codes == [1, 1] and second == f"process 0 stopped: {first}"


DIES = "from training import hosts; hosts.join(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@slow
def test_a_process_that_is_killed_at_start_is_named_within_a_minute(folder):
    began = time.monotonic()
    commands = [command(folder, "killed", folder / "a"), [sys.executable, "-c", DIES]]
    codes, outputs = launch(commands, 1)
    assert codes == [1, -9] and time.monotonic() - began < 120
    (line,) = errors(outputs[:1])
    assert line.startswith("process 1 of 2 has sent no heartbeat for 30 s: it was killed, or")


@slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_never_comes_is_one_line_after_the_stated_time(folder, index):
    own = {**addressed(2)[index], "TRIPTYCH_START_TIMEOUT": "5"}
    codes, outputs = launch([command(folder, "alone", folder / "a")], 1, [own])
    (line,) = errors(outputs)
    assert (
        codes == [1] and f"process {index} of 2 waits 5 s at most for the others at" in outputs[0]
    )
    assert re.match(
        rf"process {index} of 2 waited 5 s at 127.0.0.1:\d+, and not all processes came", line
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "node0"}, "'node0' has no port; expected HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES='' is not an integer; several"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID=2 is not a process of JAX_NUM_PROCESSES=2; expected 0 to 1",
        ),
        (
            {"TRIPTYCH_DISTRIBUTED": "1"},
            "JAX detects no cluster here for TRIPTYCH_DISTRIBUTED=1; set JAX_",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "TRIPTYCH_START_TIMEOUT": "soon"},
            "TRIPTYCH_START_TIMEOUT='soon' is not an integer",
        ),
    ],
)
def test_variables_that_describe_no_cluster_are_one_line(monkeypatch, variables, message):
    for name in list(os.environ):
        if name.startswith(
            ("SLURM_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS_ID", "TRIPTYCH_")
        ):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        hosts.join()
    assert len(str(error.value)) <= 400


def test_tasks_of_slurm_that_are_not_joined_are_named(monkeypatch, caplog):
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.delenv("TRIPTYCH_DISTRIBUTED", raising=False)
    hosts.join()
    assert (
        "Slurm runs 4 tasks of this program, which are not joined: set TRIPTYCH_DISTRIBUTED=1"
        in caplog.text
    )


class Store:
    """The key-value store of a coordinator, in memory."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]


def boards(monkeypatch, count):
    store = Store()
    monkeypatch.setattr(hosts.Board, "_beat", lambda self, over: None)
    return store, [hosts.Board(store, p, count) for p in range(count)]


def reports(monkeypatch, *each):
    """The error of process 0 where processes have these (report, details); '' for none."""
    _, found = boards(monkeypatch, len(each))
    monkeypatch.setattr(hosts.Board, "_wait", lambda self: self._read("1-digest"))
    for board, pair in [*zip(found, each, strict=True)][::-1]:
        message = ""
        try:
            board.agree(*pair)
        except (ConfigError, KeyError) as error:
            message = str(error)
    return message


def test_a_difference_names_the_process_the_host_and_the_first_fields(monkeypatch):
    same = {"data": "x", "config": {"a": {"b": 1}, "c": (1, 2)}}
    assert reports(monkeypatch, (same, {"f": 1}), (same, {"f": 2})) == ""
    other = {"data": "y", "config": {"a": {"b": 2}, "c": (1, 3)}}
    message = reports(monkeypatch, (same, {}), (same, {}), (other, {}), (other, {}))
    assert re.match(r"process 2 on .* differs from process 0 on .* \(as do 1 others\): ", message)
    assert (
        "config.a.b is 2, not 1; config.c is [1, 3], not [1, 2] (and 1 more); start all" in message
    )
    message = reports(
        monkeypatch, (same, {"the content of f": 1}), (other, {"the content of f": 2})
    )
    assert ": the content of f is 2, not 1; config.a.b is" in message


def test_a_silent_process_is_dead_and_one_that_works_is_waited_for(monkeypatch):
    store, (first, _) = boards(monkeypatch, 2)
    clock = {"now": 0.0}
    monkeypatch.setattr(hosts.time, "monotonic", lambda: clock["now"])

    def sleep(seconds):
        clock["now"] += 10
        if clock["now"] < 500:  # it reads its data for 500 s
            store.key_value_set("triptych/beat/1", str(clock["now"]))

    monkeypatch.setattr(hosts.time, "sleep", sleep)
    with pytest.raises(ConfigError, match="process 1 of 2 has sent no heartbeat for 30 s"):
        first.agree({}, {})
    assert 520 <= clock["now"] <= 540


def test_a_process_that_rests_between_two_runs_is_not_dead(monkeypatch):
    store, (first, second) = boards(monkeypatch, 2)
    store.key_value_set("triptych/beat/1", "1")
    first._listen()
    for board in (first, second):
        board.rest()
    first.beat()
    clock = {"now": first._started}
    monkeypatch.setattr(hosts.time, "monotonic", lambda: clock["now"])

    def sleep(seconds):
        clock["now"] += 50
        if clock["now"] - first._started > 200:  # it comes after 200 s
            second.agree({}, {})

    monkeypatch.setattr(second, "_wait", lambda: second._read("1-digest"))
    monkeypatch.setattr(hosts.time, "sleep", sleep)
    first.agree({}, {})


def test_a_lost_connection_is_explained_by_the_process_that_ended_first(monkeypatch):
    _, (first, second) = boards(monkeypatch, 2)
    monkeypatch.setattr(hosts, "_board", first)
    second.leave("a file is missing")
    monkeypatch.setattr(hosts.time, "sleep", lambda seconds: None)
    assert hosts.leave("Connection closed by peer", False) == "process 1 stopped: a file is missing"
    assert hosts.leave("a config is wrong", True) == "a config is wrong"

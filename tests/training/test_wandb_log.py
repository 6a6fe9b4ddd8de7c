"""W&B as a sink: its environment, its service (a local stand-in), and what is left where the service is away."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import socket
import threading
from pathlib import Path

import pytest

from snake_dist.errors import InputError
from snake_dist.training import wandb_log
from snake_dist.training.sinks import Artifact, SinkThread, close_all
from snake_dist.training.wandb_log import WandbConfig, complete_wandb_config, open_wandb
from tests.support.faults import replace
from tests.support.processes import BIN, run_program, wait_until
from tests.support.ranks import run_on_ranks
from tests.support.wandb_server import WandbServer

ENVIRONMENT = {
    "WANDB_PROJECT": "theirs",
    "WANDB_ENTITY": "team",
    "WANDB_RUN_GROUP": "grid",
    "WANDB_NAME": "first",
    "WANDB_TAGS": "a,b",
    "WANDB_MODE": "dryrun",
}


def test_the_environment_counts_where_no_flag_and_no_earlier_session_does():
    assert complete_wandb_config(WandbConfig(), {}, {}) == WandbConfig(wandb_project="snake_dist")
    theirs = WandbConfig("offline", "theirs", "team", "grid", "first", ("a", "b"))
    assert complete_wandb_config(WandbConfig(), {}, ENVIRONMENT) == theirs
    flags = WandbConfig("online", "mine", "me", "g", "n", ("c",))
    assert complete_wandb_config(flags, {"wandb-project": "earlier"}, ENVIRONMENT) == flags
    # A resumed run stays in its project, from whatever shell it is started.
    earlier = {"wandb-project": "p", "wandb-entity": "e", "wandb-group": None, "wandb-tags": ["t"]}
    resumed = complete_wandb_config(WandbConfig(), earlier, ENVIRONMENT)
    assert (resumed.wandb_project, resumed.wandb_entity, resumed.wandb_group) == ("p", "e", "grid")
    assert resumed.wandb_tags == ("t",)


def test_a_mode_that_is_none_is_named():
    with pytest.raises(InputError, match=r"^WANDB_MODE=onlin: allowed are online, offline, disabled, run, dryrun"):
        complete_wandb_config(WandbConfig(), {}, {"WANDB_MODE": "onlin"})
    assert complete_wandb_config(WandbConfig("offline"), {}, {"WANDB_MODE": "onlin"}).wandb_mode == "offline"


def session(directory: Path, environment: dict[str, str], steps: range, wait_for_port: int = 0) -> str:
    """On a rank: log these steps to the W&B run `run1` and return what that prints.

    All but the first two are logged when nobody listens at `wait_for_port`."""
    os.environ.update(environment, WANDB__FILE_STREAM_TRANSMIT_INTERVAL="0.1")
    replace(wandb_log, "INIT_TIMEOUT_S", 2.0)
    replace(wandb_log, "CLOSE_TIMEOUT_S", 8.0)
    config = complete_wandb_config(WandbConfig(), {}, os.environ)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        thread = SinkThread("W&B", lambda: open_wandb(config, directory, {"rank": 4}, "run1"))
        for step in steps:
            thread.call(lambda sink, step=step: sink.log(step, {"train/loss": step / 4}))  # type: ignore[misc]
            if wait_for_port and step == steps[1]:
                wait_until(lambda: not _listens(wait_for_port), lambda: "the service is still there")
        close_all([thread], timeout_s=30.0)
    return printed.getvalue()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def losses(steps: range) -> list[tuple[int, float]]:
    """What the service has of them."""
    return [(step, step / 4) for step in steps]


def upload(printed: str, directory: Path, server: WandbServer) -> None:
    """Do what a run says that uploads it."""
    [command] = re.findall(r"upload later with `wandb (.*)`", printed)
    done = run_program([BIN / "wandb", *shlex.split(command)], directory, **server.account)
    assert "Finished syncing" in done.stderr + done.stdout, done.stderr


def test_a_run_and_its_resumption_are_one_run_of_the_service(tmp_path):
    with WandbServer() as server:
        environment = ENVIRONMENT | server.account | {"WANDB_MODE": "online"}
        for steps in (range(3), range(3, 6)):
            [printed] = run_on_ranks(session, 1, tmp_path, environment, steps)
            assert printed == ""
    assert server.runs.keys() == {"run1"}
    assert server.runs["run1"].series("train/loss") == losses(range(6))
    about = server.runs["run1"].about
    assert (about["project"], about["entity"], about["groupName"]) == ("theirs", "team", "grid")
    assert (about["displayName"], about["tags"]) == ("first", ["a", "b"])


def test_sessions_without_the_service_are_uploaded_as_one_run(tmp_path):
    server = WandbServer()
    said = [run_on_ranks(session, 1, tmp_path, server.account, steps)[0] for steps in (range(3), range(3, 6))]
    for printed in said:
        assert re.fullmatch(r"W&B: .*connection refused: logging offline; upload later with `.*`\n", printed)
    with server:
        for printed in said:
            upload(printed, tmp_path, server)
    assert server.runs.keys() == {"run1"}
    assert server.runs["run1"].series("train/loss") == losses(range(6))


@pytest.mark.slow
def test_nothing_is_lost_when_the_service_goes_away(tmp_path):
    server = WandbServer().start()

    def leave() -> None:
        wait_until(lambda: bool(server.runs["run1"].history if "run1" in server.runs else None), lambda: "no line came")
        server.stop()

    leaving = threading.Thread(target=leave)
    leaving.start()
    [printed] = run_on_ranks(session, 1, tmp_path, server.account, range(5), server.port)
    leaving.join()
    with server:
        upload(printed, tmp_path, server)
    # `wandb sync` sends every line again, under its step.
    assert dict(server.runs["run1"].series("train/loss")) == dict(losses(range(5)))
    assert "W&B stopped logging (TimeoutError" in printed


def keep(directory: Path, environment: dict[str, str]) -> str:
    """On a rank: log a number, an adapter and the data that it is from; return what that prints."""
    os.environ.update(environment, WANDB_DATA_DIR=str(directory), WANDB_CACHE_DIR=str(directory))
    adapter = directory / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    artifacts = [
        Artifact("run-adapter", "model", {"eval/loss": 0.25}, adapter, ("final", "best")),
        Artifact("data-1", "dataset", {"fingerprint": "f"}),
    ]
    config = complete_wandb_config(WandbConfig(wandb_project="p"), {}, os.environ)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        thread = SinkThread("W&B", lambda: open_wandb(config, directory, {}, "run1"))
        thread.call(lambda sink: sink.log(1, {"train/loss": 0.25}))
        for artifact in artifacts:
            thread.call(lambda sink, artifact=artifact: sink.log_artifact(artifact))  # type: ignore[misc]
        close_all([thread], timeout_s=30.0)
    return printed.getvalue()


def test_the_service_gets_the_adapter_and_what_it_is_from(tmp_path):
    with WandbServer() as server:
        [printed] = run_on_ranks(keep, 1, tmp_path, server.account)
    assert printed == ""
    adapter, data = server.artifacts
    assert (adapter.name, adapter.type, adapter.metadata) == ("run-adapter", "model", {"eval/loss": 0.25})
    assert set(adapter.aliases) == {"latest", "final", "best"}
    assert adapter.files["adapter_model.safetensors"] == b"weights"
    assert (data.name, data.metadata, data.used_by) == ("data-1", {"fingerprint": "f"}, ["run1"])
    assert adapter.is_committed
    assert data.is_committed
    assert server.runs["run1"].series("train/loss") == [(1, 0.25)]


def test_offline_nothing_is_printed(tmp_path):
    [printed] = run_on_ranks(keep, 1, tmp_path, {"WANDB_MODE": "offline"})
    assert printed == ""


def test_an_artifact_that_is_refused_loses_nothing_and_is_named(tmp_path):
    with WandbServer() as server:
        server.refused = {"CreateArtifact"}
        [printed] = run_on_ranks(keep, 1, tmp_path, server.account)
    first, second = printed.splitlines()
    assert "W&B: artifact run-adapter not uploaded (" in first
    assert first.endswith(f": its files are in {tmp_path / 'adapter'}")
    assert "W&B: artifact data-1 not uploaded (" in second
    assert (tmp_path / "adapter/adapter_model.safetensors").read_bytes() == b"weights"
    assert server.runs["run1"].series("train/loss") == [(1, 0.25)]

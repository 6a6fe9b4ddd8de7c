"""Runs on two hosts with addresses, names and clocks of their own, joined by a cable that is cut or slow."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support import faults, hosts
from tests.support.faults import at_step
from tests.support.processes import BIN, ROOT, TIMEOUT_S
from tests.support.run_checks import check_equal, status_of
from tests.support.train_ranks import errors_of, flags_of, launch

RANK_TIMEOUT_S = 12


def test_deepspeed_with_a_hostfile_over_ssh_and_pdsh(tmp_path, llama_dir, data, oracle, two_hosts):
    """Beta's clock runs a day ahead, and beta does not see the run's directory."""
    run, place = tmp_path / "runs/run", tmp_path / "place"
    for path in (run.parent, place):
        path.mkdir()
    two_hosts.beta.run("mount", "-t", "tmpfs", "none", run.parent)
    cache = tmp_path / "cache"
    (place / ".deepspeed_env").write_text(f"HF_HUB_OFFLINE=1\nXDG_CACHE_HOME={cache}\nOMP_NUM_THREADS=1\n")
    words = [BIN / "deepspeed", "--hostfile", two_hosts.hostfile, ROOT / "launcher/train.py"]
    log = tmp_path / "log"
    launched = two_hosts.alpha.start([*words, *flags_of(llama_dir, data, run)], place, log)
    assert launched.wait(TIMEOUT_S) == 0, log.read_text()
    check_equal(run, oracle / "run")


def test_torchrun_across_hosts_over_a_slow_cable(tmp_path, llama_dir, data, oracle, two_hosts):
    run = tmp_path / "run"
    if not two_hosts.slow(("netem", "delay", "20ms"), ("tbf", "rate", "8mbit", "burst", "16kb", "latency", "400ms")):
        pytest.skip("this machine's kernel has neither netem nor tbf")
    both = (two_hosts.alpha, two_hosts.beta)
    meeting = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", two_hosts.alpha.address, "--master-port", 29611]
    logs = [tmp_path / f"log{rank}" for rank in (0, 1)]
    launched = [
        host.start(
            [
                BIN / "torchrun",
                *meeting,
                "--node-rank",
                rank,
                ROOT / "launcher/train.py",
                *flags_of(llama_dir, data, run),
            ],
            tmp_path,
            logs[rank],
        )
        for rank, host in enumerate(both)
    ]
    for process, log in zip(launched, logs, strict=True):
        assert process.wait(TIMEOUT_S) == 0, log.read_text()
    check_equal(run, oracle / "run")


def test_a_cable_cut_in_mid_step(tmp_path, llama_dir, data, oracle, two_hosts):
    """No packet says so. Beta's time of day is an hour late, too."""
    run = tmp_path / "run"
    flags = flags_of(llama_dir, data, run, rank_timeout_s=RANK_TIMEOUT_S)
    places = [*two_hosts.places(), (1, faults.clock_back, (3600.0,))]
    done = launch(flags, 2, tmp_path / "logs0", [*places, (1, at_step, (4, hosts.set_link, "down"))])
    assert done.codes == [1, 1], done.printed()
    [error] = errors_of(done.printed(0))
    assert (
        f"no rank made progress for {RANK_TIMEOUT_S} s: rank 1 on beta stopped, hung or died, or the network " in error
    )
    [error] = errors_of(done.printed(1))
    assert "rank 0 on alpha or the launcher is stopped or dead, or the network to it is cut" in error
    status = status_of(run)
    assert (status["state"], status["checkpoint"]) == ("failed", "checkpoints/step-00000002")

    two_hosts.plug_in()
    done = launch(flags, 2, tmp_path / "logs1", places)
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")


def short_meeting() -> None:
    from snake_dist.cluster import world

    faults.replace(world, "RENDEZVOUS_TIMEOUT", timedelta(seconds=4))


def test_a_cable_cut_before_the_ranks_have_met(tmp_path, llama_dir, data, two_hosts):
    hosts.set_link("down", two_hosts.beta.command())
    places = [*two_hosts.places(), *((rank, short_meeting, ()) for rank in (0, 1))]
    done = launch(flags_of(llama_dir, data, tmp_path / "run"), 2, tmp_path / "logs", places)
    assert done.codes == [1, 1], done.printed()
    [error] = errors_of(done.printed(0))
    assert f"rank 0 on alpha: the 2 ranks did not meet at {two_hosts.alpha.address}:" in error
    assert "within 4 s: only 1 came" in error
    [error] = errors_of(done.printed(1))
    assert "rank 1 on beta: " in error
    assert "rank 0, which listens there, was not reached" in error
    assert "Traceback" not in done.printed()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["save", "games"])
def test_a_cable_cut_where_ranks_may_work_for_hours(tmp_path, llama_dir, data, oracle, two_hosts, when):
    """While rank 0 renames a checkpoint, and in the games at the end, where nobody bounds the time between steps."""
    run = tmp_path / "run"
    games = {"play_games": 2, "play_max_steps": 4} if when == "games" else {}
    flags = flags_of(llama_dir, data, run, rank_timeout_s=RANK_TIMEOUT_S, **games)
    cut = (faults.at_rename, "step-00000004") if when == "save" else (faults.at_game, 1)
    fault = (0, *cut[:1], (*cut[1:], hosts.set_link, "down"))
    done = launch(flags, 2, tmp_path / "logs0", [*two_hosts.places(), fault])
    assert done.codes == [1, 1], done.printed()
    [error] = errors_of(done.printed(0))
    assert "rank 1 on beta stopped, hung or died, or the network to it is cut: no sign of life for " in error
    assert status_of(run)["state"] == "failed"

    two_hosts.plug_in()
    done = launch(flags, 2, tmp_path / "logs1", two_hosts.places())
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")

"""One uninterrupted run, the oracle, and one that was killed, stopped and resumed: many tests look at them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import faults, hosts
from tests.support.faults import at_step
from tests.support.packages import skip_or_fail
from tests.support.runs import tiny_data
from tests.support.train_ranks import flags_of, launch


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("games") / "data")


@pytest.fixture(scope="session")
def oracle(tmp_path_factory, llama_dir, data) -> Path:
    """run/: never interrupted; ids: the examples of each step."""
    directory = tmp_path_factory.mktemp("oracle")
    flags = flags_of(llama_dir, data, directory / "run")
    done = launch(flags, 2, directory / "logs", [(0, faults.record_ids, (str(directory / "ids"),))])
    assert done.codes == [0, 0], done.printed()
    return directory


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory, llama_dir, data) -> Path:
    """run/ in four sessions: rank 1 killed in step 4; rank 1 asked to stop, three times, in step 5; rank 0 in step 6,
    the last of the epoch; and one that ends, with a rank whose clock goes back an hour. stopped/ is as the second
    left it."""
    directory = tmp_path_factory.mktemp("interrupted")
    flags = flags_of(llama_dir, data, directory / "run")
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1)
    injected = [
        (1, at_step, (4, faults.die)),
        (1, at_step, (5, faults.ask_to_stop, *signals)),
        (0, at_step, (6, faults.ask_to_stop, signal.SIGUSR1)),
        (1, at_step, (7, faults.clock_back, 3600.0)),
    ]
    for session, fault in enumerate(injected):
        recorder = (0, faults.record_ids, (str(directory / f"ids{session}"),))
        done = launch(flags, 2, directory / f"logs{session}", [fault, recorder])
        status = json.loads((directory / "run/status.json").read_text())
        (directory / f"session{session}.json").write_text(json.dumps({"codes": done.codes, "status": status}))
        if session == 1:
            shutil.copytree(directory / "run", directory / "stopped")
    return directory


@pytest.fixture(scope="session")
def _booted(tmp_path_factory) -> Iterator[hosts.Hosts]:
    skip_or_fail("SNAKE_DIST_HOSTS", hosts.why_impossible())
    with hosts.running(tmp_path_factory.mktemp("hosts")) as both:
        yield both


@pytest.fixture
def two_hosts(_booted) -> hosts.Hosts:
    """Two hosts with a good cable. Without them, tests are skipped, but fail where SNAKE_DIST_HOSTS=required (CI)."""
    _booted.plug_in()
    return _booted

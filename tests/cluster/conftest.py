from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import slurm_cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_cluster.Cluster]:
    """A running Slurm. Without one, tests are skipped, but fail where SNAKE_DIST_SLURM=required (CI)."""
    impossible = slurm_cluster.install()
    if impossible:
        assert os.environ.get("SNAKE_DIST_SLURM") != "required", impossible
        pytest.skip(impossible)
    cluster = slurm_cluster.start()
    yield cluster
    slurm_cluster.stop(cluster)

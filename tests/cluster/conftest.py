from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import slurm_cluster
from tests.support.packages import skip_or_fail


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_cluster.Cluster]:
    """A running Slurm. Without one, tests are skipped, but fail where SNAKE_DIST_SLURM=required (CI)."""
    skip_or_fail("SNAKE_DIST_SLURM", slurm_cluster.install())
    cluster = slurm_cluster.start()
    yield cluster
    slurm_cluster.stop(cluster)

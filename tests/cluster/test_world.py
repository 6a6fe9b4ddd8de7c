from __future__ import annotations

import pytest

from snake_dist.cluster.world import World, agree, gather, start_process_group, world_from_environment
from snake_dist.errors import InputError
from tests.support.ranks import run_on_ranks


@pytest.fixture
def environment(monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "SLURM_STEP_ID",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_NTASKS",
        "SLURM_NTASKS_PER_NODE",
        "LOCAL_WORLD_SIZE",
        "LOCAL_SIZE",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_rank_facts_come_from_whichever_launcher(environment):
    assert world_from_environment() == World(0, 0, 1, local_size=1)
    for name, value in (
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "5"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_NTASKS_PER_NODE", "4"),
    ):
        environment.setenv(name, value)
    assert world_from_environment() == World(5, 1, 8, local_size=4)
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        environment.setenv(name, value)
    assert world_from_environment() == World(3, 1, 4, local_size=2)


def test_impossible_rank_facts_are_named(environment):
    environment.setenv("RANK", "4")
    environment.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="RANK=4 is outside a world of WORLD_SIZE=4"):
        world_from_environment()
    environment.setenv("RANK", "one")
    with pytest.raises(InputError, match="one"):
        world_from_environment()


def ask(fails_on_rank):
    world = world_from_environment()
    start_process_group(world)

    def work():
        if world.rank == fails_on_rank:
            raise InputError(f"rank {world.rank} failed")
        return f"from rank {world.rank}"

    try:
        agreed = agree(world, work)
    except InputError as problem:
        agreed = str(problem)
    return agreed, gather(world.rank, world)


def test_ranks_agree_on_values_and_on_failures():
    assert run_on_ranks(ask, 2, None) == [("from rank 0", [0, 1])] * 2
    assert run_on_ranks(ask, 2, 0) == [("rank 0 failed", [0, 1]), ("", [0, 1])]  # said once, raised everywhere
    assert run_on_ranks(ask, 2, 1) == [("from rank 0", [0, 1])] * 2  # rank 1 was not asked

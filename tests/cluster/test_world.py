from __future__ import annotations

import pytest

from snake_dist.cluster.srun import meeting_point
from snake_dist.cluster.world import (
    World,
    agree,
    check_gpus_differ,
    gather,
    gpu_index,
    set_meeting_point,
    start_process_group,
    unused_gpus,
    world_from_environment,
)
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
        "SLURM_STEP_TASKS_PER_NODE",
        "SLURM_NODEID",
        "SLURM_STEP_NODELIST",
        "SLURM_STEP_NUM_NODES",
        "SLURM_JOB_ID",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        monkeypatch.setenv(name, "")  # so that what a test sets by other means is gone afterwards
        monkeypatch.delenv(name)
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


def test_srun_alone_says_where_ranks_meet_and_how_many_a_node_has(environment):
    for name, value in (("SLURM_STEP_ID", "2"), ("SLURM_PROCID", "6"), ("SLURM_LOCALID", "0"), ("SLURM_NTASKS", "7")):
        environment.setenv(name, value)
    environment.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x3),1")
    environment.setenv("SLURM_NODEID", "3")
    assert world_from_environment() == World(6, 0, 7, local_size=1)
    environment.setenv("SLURM_NODEID", "0")
    assert world_from_environment().local_size == 2
    environment.setenv("SLURM_JOB_ID", "41")
    environment.setenv("SLURM_STEP_NUM_NODES", "4")
    for nodes, first in (("gpu[007-009,12]", "gpu007"), ("a1,b[1-3]", "a1"), ("node-3", "node-3")):
        environment.setenv("SLURM_STEP_NODELIST", nodes)
        assert meeting_point() == (first, str(20000 + (1009 * 41 + 2) % 10000))
    environment.setenv("SLURM_STEP_NUM_NODES", "1")
    assert meeting_point()[0] == "127.0.0.1"


def test_a_shell_of_salloc_is_one_rank(environment):
    for name, value in (("SLURM_STEP_ID", "4294967290"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")):
        environment.setenv(name, value)
    assert world_from_environment() == World(0, 0, 1, local_size=1)


def test_ranks_that_nobody_told_where_to_meet_are_named(environment):
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE=2 without MASTER_ADDR and MASTER_PORT: start the ranks with dee"):
        set_meeting_point(world_from_environment())


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


def test_each_rank_takes_the_gpu_of_its_local_rank_or_the_only_one_that_it_sees(environment):
    assert [gpu_index(World(rank, rank % 4, 8, local_size=4), 4) for rank in range(8)] == [0, 1, 2, 3] * 2
    assert gpu_index(World(5, 1, 8, local_size=4), 8) == 1
    assert gpu_index(World(5, 3, 8, local_size=4), 1) == 0  # srun --gpus-per-task=1
    environment.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    with pytest.raises(
        InputError, match=r"4 ranks on .*, which shows 2 GPUs \(CUDA_VISIBLE_DEVICES=0,2\): at most one"
    ):
        gpu_index(World(0, 0, 4, local_size=4), 2)


def test_ranks_that_share_a_gpu_are_named_once():
    gpus = [("a", "gpu-1"), ("b", "gpu-1"), ("a", "gpu-2"), ("a", "gpu-1")]
    check_gpus_differ(gpus[:3], World(0, 0, 3, 3))
    with pytest.raises(InputError, match="ranks 0 and 3 have the same GPU on a"):
        check_gpus_differ(gpus, World(0, 0, 4, 4))
    with pytest.raises(InputError, match=r"^$"):
        check_gpus_differ(gpus, World(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["snake-dist train", "--ds", "zero2"], "-m snake_dist train --ds zero2"),
        (["launcher/train.py", "--data", "a b"], "launcher/train.py --data 'a b'"),
    ],
)
def test_one_rank_beside_unused_gpus_says_how_to_use_them(argv, program):
    line = unused_gpus(4, argv)
    assert (
        line == f"1 of 4 GPUs is used, by 1 rank. One rank on each: torchrun --standalone --nproc-per-node 4 {program}"
    )

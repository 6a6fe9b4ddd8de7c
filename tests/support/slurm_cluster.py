"""A real Slurm of the tests' own: munge, slurmctld and two slurmd of two fake GPUs each, as the ordinary user.

Only installing needs root. Everything lives in one directory and is gone after `stop`.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from tests.support import packages
from tests.support.processes import TIMEOUT_S, wait_until

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("node1", "node2")


@dataclass(frozen=True)
class Cluster:
    """A running cluster: partitions `debug` (preemptible, 120 s of grace) and `high` (preempts)."""

    directory: Path
    environment: dict[str, str]
    """What its commands need to find it."""

    def run(self, *command: object, check: bool = True) -> str:
        """stdout of a command, such as scontrol; raises AssertionError with its stderr when it fails."""
        done = subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What scontrol knows of the job; of an array, of its first task."""
        text = self.run("scontrol", "-o", "show", "job", job)
        return dict(re.findall(r"(?:^| )([A-Za-z:/]+)=(\S*)", text.splitlines()[0]))

    def wait(self, job: str, *states: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
        """The job's facts once its state is one of `states`."""

        def reached() -> bool:
            return self.facts(job)["JobState"] in states

        wait_until(reached, lambda: f"job {job}: {self.facts(job)}, not {states}", timeout_s)
        return self.facts(job)

    def start_again(self, job: str, restarts: int) -> None:
        """Wait until the job is queued for the n-th time, and start it now rather than in two minutes."""

        def queued() -> bool:
            facts = self.facts(job)
            return facts["JobState"] == "PENDING" and facts["Restarts"] == str(restarts)

        def remains() -> list[int]:
            return self.processes(f"SLURM_JOB_ID={self.facts(job)['JobId']}")

        wait_until(queued, lambda: f"job {job} was not queued again: {self.facts(job)}")
        # Without the two minutes an srun of the last start would meet, and end, the step of the same name.
        wait_until(lambda: not remains(), lambda: f"job {job}: processes {remains()} live on")
        time.sleep(1)
        before_release = time.monotonic()
        while self.facts(job)["JobState"] == "PENDING":  # refused within the first second
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            assert time.monotonic() < before_release + TIMEOUT_S, self.facts(job)
            time.sleep(0.3)

    def start_node(self, node: str) -> None:
        """Start the node's slurmd, and wait until jobs can use it."""
        self.run("slurmd", "-f", self.directory / "slurm.conf", "-N", node)
        wait_until(lambda: node in idle_nodes(self), lambda: f"nodes: {idle_nodes(self)}\n{logs(self)}")

    def kill_node(self, node: str) -> None:
        """Power off a node that a step runs on: its slurmd, its slurmstepd and every process of theirs, at once."""
        tasks = self.processes(f"SLURMD_NODENAME={node}")
        steps = {
            parent for parent in map(parent_of, tasks) if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes()
        }
        assert tasks
        assert steps
        for pid in [int((self.directory / f"run/slurmd.{node}.pid").read_text()), *steps, *tasks]:
            os.kill(pid, signal.SIGKILL)
        # The controller would find out in a minute by itself; a health check does this.
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")

    def processes(self, *variables: str) -> list[int]:
        """Every process of this cluster (daemons, steps, programs) that has these NAME=VALUE in its environment."""
        wanted = {f"SLURM_CONF={self.directory / 'slurm.conf'}".encode(), *(item.encode() for item in variables)}
        return [pid for pid, known in environments() if wanted <= known and pid != os.getpid()]


def environments() -> Iterator[tuple[int, set[bytes]]]:
    """(pid, its NAME=VALUE settings) of every process that this user may look at."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or of another user
            yield int(entry.name), set((entry / "environ").read_bytes().split(b"\0"))


def parent_of(pid: int) -> int:
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def install() -> str | None:
    """Install what is missing. Returns why that is impossible, or None if all is there."""
    return packages.install(("slurmctld", "slurmd", "sbatch", "munged"), PACKAGES)


def start() -> Cluster:
    """Start a cluster, all of whose nodes are idle on return."""
    # Not pytest's directory: munged wants all users to reach its socket. No munge key outlives the run.
    directory = Path(tempfile.mkdtemp(prefix="snake-dist-slurm-"))
    for path in (directory, directory / "munge", directory / "run", directory / "spool"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    for name in ("log", "state"):
        (directory / name).mkdir(mode=0o700)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"SLURM_CONF": str(directory / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    cluster = Cluster(directory, environment)
    (directory / "munge.key").write_bytes(os.urandom(128))
    (directory / "munge.key").chmod(0o600)
    (directory / "slurm.conf").write_text(slurm_conf(directory))
    # Any character device passes for a GPU; these every user has.
    (directory / "gres.conf").write_text(
        "AutoDetect=off\nNodeName=node[1-2] Name=gpu File=/dev/null\nNodeName=node[1-2] Name=gpu File=/dev/zero\n"
    )
    try:
        cluster.run(
            "munged",
            f"--key-file={directory / 'munge.key'}",
            f"--socket={directory / 'munge/socket'}",
            f"--pid-file={directory / 'run/munged.pid'}",
            f"--log-file={directory / 'log/munged.log'}",
            f"--seed-file={directory / 'state/munged.seed'}",
        )
        cluster.run("slurmctld", "-f", directory / "slurm.conf")
        for node in NODES:
            cluster.start_node(node)
    except BaseException:
        stop(cluster)
        raise
    return cluster


def idle_nodes(cluster: Cluster) -> set[str]:
    return set(cluster.run("sinfo", "-h", "-N", "-p", "debug", "-t", "idle", "-o", "%N", check=False).split())


def logs(cluster: Cluster) -> str:
    """The ends of the daemons' logs."""
    return "\n".join(f"{path.name}: {path.read_text()[-1000:]}" for path in (cluster.directory / "log").glob("*.log"))


def stop(cluster: Cluster) -> None:
    """End every job, every process and remove every file."""
    cluster.run("scancel", "--user", getuser(), check=False)
    end = time.monotonic() + 10
    while cluster.run("squeue", "-h", check=False) and time.monotonic() < end:
        time.sleep(0.1)
    for signal_number, grace_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        for pid in cluster.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
        end = time.monotonic() + grace_s
        while cluster.processes() and time.monotonic() < end:
            time.sleep(0.1)
    shutil.rmtree(cluster.directory)


def slurm_conf(directory: Path) -> str:
    """slurm.conf for this machine and user, on ports that are free now.

    Job ids begin at a random number: the port of a job's ranks follows from its id, and those of several clusters on
    this machine differ.
    """
    user, host = getuser(), socket.gethostname().split(".")[0]
    controller, *nodes = free_ports(3)
    node_lines = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 Boards=1 SocketsPerBoard=1 "
        "CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"
        for name, port in zip(NODES, nodes, strict=True)
    )
    return f"""
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
FirstJobId={random.randrange(1, 1_000_000)}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={directory}/munge/socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/run/slurmctld.pid
SlurmdPidFile={directory}/run/slurmd.%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout=60
MessageTimeout=60
KillWait=10
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{node_lines}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def free_ports(num: int) -> list[int]:
    """Ports below those that the kernel gives to whoever asks for any, and below those of jobs (from 20000 on)."""
    ports: list[int] = []
    while len(ports) < num:
        port = random.randrange(10000, 20000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            ports += [port] if port not in ports else []
    return ports

"""Two hosts of the tests' own on this machine: namespaces with an address, a name, an sshd and a clock each.

A cable (veth) joins them, which a test can cut, plug in again and make slow. As on most clusters they share the file
system. Each host is the tree of processes below its sshd: with that one the host is powered off. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import packages
from tests.support.processes import BIN, environment, wait_until

COMMANDS = ("ip", "tc", "sshd", "ssh", "ssh-keygen", "pdsh", "nsenter", "unshare")
PACKAGES = ("iproute2", "openssh-server", "openssh-client", "pdsh", "util-linux")
CLONE_NEWNS = 0x00020000
ADDRESSES = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
"""By host name; deepspeed, torchrun and gloo find each host by its name."""
BETA_IS_UP_FOR = "86400"
"""Seconds by which the monotonic clock of beta is ahead, since hosts boot at different times. Linux has no namespace
for the time of day, and under libfaketime Python's sleep hangs: `faults.clock_back` shifts it on a rank."""

_SSH_CONFIG = """
Host *
  IdentityFile {directory}/user_key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ServerAliveInterval 2
  ServerAliveCountMax 3
"""
_SSHD_CONFIG = """
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""
# Mounts and the name are this host's alone. sshd must be called by its full path.
_BOOT = """
set -e
mount -t tmpfs none /run && mkdir /run/sshd
mount --bind {directory}/hosts /etc/hosts
mount --bind {directory}/ssh_config /etc/ssh/ssh_config
hostname {name}
ip link set lo up
exec $(command -v sshd) -D -e -f {directory}/sshd_config
"""


@dataclass(frozen=True)
class Host:
    """A host that runs; `pid` is its sshd as this machine sees it."""

    name: str
    pid: int

    @property
    def address(self) -> str:
        return ADDRESSES[self.name]

    def command(self, *words: object) -> list[str]:
        """The words, to be run on the host rather than here."""
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--net", "--pid"]
        clock = ["--time"] if Path(f"/proc/{self.pid}/ns/time").exists() else []
        return [*inside, *clock, "--", *map(str, words)]

    def run(self, *words: object) -> str:
        """stdout of a short command on the host; raises CalledProcessError."""
        command = self.command(*words)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def start(self, words: Sequence[object], cwd: Path, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start a program on the host, as a user who is logged in there does."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(*words), cwd=cwd, env=environment(**variables), stdout=file, stderr=subprocess.STDOUT
            )

    def programs(self) -> list[str]:
        """The command lines of the Python programs that run there."""
        return [line for line in self.run("ps", "-eo", "args").splitlines() if "python" in line]


@dataclass(frozen=True)
class Hosts:
    alpha: Host
    beta: Host
    directory: Path

    @property
    def hostfile(self) -> Path:
        """For deepspeed: one rank on each."""
        return self.directory / "hostfile"

    def places(self) -> list[tuple[int, Any, tuple[Any, ...]]]:
        """The faults that put rank 0 on alpha and rank 1 on beta."""
        hosts_file = str(self.directory / "hosts")
        both = enumerate((self.alpha, self.beta))
        return [(rank, enter, (host.pid, hosts_file, self.alpha.address)) for rank, host in both]

    def plug_in(self) -> None:
        """Join the hosts by a good cable, which replaces the one there was."""
        for host in (self.alpha, self.beta):
            set_link("up", host.command())
        self.slow(())

    def slow(self, *kinds: Sequence[str]) -> bool:
        """Slow the cable by the first of these of tc's kinds that the kernel has; False if it has none of them."""
        sides = [host.command("tc", "qdisc") for host in (self.alpha, self.beta)]
        for side in sides:
            subprocess.run([*side, "del", "dev", "eth0", "root"], capture_output=True, check=False)
        for kind in kinds:
            if all(
                subprocess.run(
                    [*side, "add", "dev", "eth0", "root", *kind], capture_output=True, check=False
                ).returncode
                == 0
                for side in sides
            ):
                return True
        return False


def set_link(state: str, inside: Sequence[str] = ()) -> None:
    """Set the host's end of the cable "up" or "down"; on a rank, of the host it runs on. Nobody gets a reset."""
    subprocess.run([*inside, "ip", "link", "set", "eth0", state], check=True)


def enter(pid: int, hosts_file: str, master: str) -> None:
    """Move this process, a rank that has not begun, to the host, where it is the only rank; rank 0 is at `master`."""
    join_network(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/uts") as file:
        assert libc.setns(file.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", hosts_file, "/etc/hosts"], check=True)
    os.environ.update(MASTER_ADDR=master, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")


def join_network(pid: int) -> None:
    """Give this thread the network of the host."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as file:
        assert libc.setns(file.fileno(), 0) == 0, os.strerror(ctypes.get_errno())


def why_impossible() -> str | None:
    """Install what is missing. Returns why this machine cannot have hosts of its own, or None if it can."""
    if os.geteuid() != 0:
        return "hosts of our own need root, to make network namespaces"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"no namespaces on this machine: {tried.stderr.strip()}"
    return packages.install(COMMANDS, PACKAGES)


@contextmanager
def running(directory: Path) -> Iterator[Hosts]:
    """Boot both hosts; they are gone after the context."""
    _write_files(directory)
    holders: list[subprocess.Popen[bytes]] = []
    try:
        for name in ADDRESSES:
            holders.append(_boot(directory, name))
        pids = [_init_of(holder, directory) for holder in holders]
        hosts = Hosts(*(Host(name, pid) for name, pid in zip(ADDRESSES, pids, strict=True)), directory)
        ends = [["name", "eth0", "netns", str(pid)] for pid in pids]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
        for host in (hosts.alpha, hosts.beta):
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        hosts.plug_in()
        yield hosts
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _write_files(directory: Path) -> None:
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)], check=True)
    lines = [f"{address} {name}" for name, address in ADDRESSES.items()]
    (directory / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    (directory / "hostfile").write_text("".join(f"{name} slots=1\n" for name in ADDRESSES))
    (directory / "ssh_config").write_text(_SSH_CONFIG.format(directory=directory))
    (directory / "sshd_config").write_text(_SSHD_CONFIG.format(directory=directory))


def _boot(directory: Path, name: str) -> subprocess.Popen[bytes]:
    namespaces = ["--net", "--uts", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    clock = ["--time", "--monotonic", BETA_IS_UP_FOR, "--boottime", BETA_IS_UP_FOR] if name == "beta" else []
    if subprocess.run(["unshare", "--fork", *clock, "true"], capture_output=True, check=False).returncode:
        clock = []
    boot = _BOOT.format(directory=shlex.quote(str(directory)), name=name)
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen(["unshare", *namespaces, *clock, "bash", "-c", boot], env=environ, stderr=log)


def _init_of(holder: subprocess.Popen[bytes], directory: Path) -> int:
    """The pid of the host's sshd, once it listens."""

    def logs() -> str:
        return "".join(path.read_text() for path in sorted(directory.glob("*.log")))

    def listening() -> bool:
        assert holder.poll() is None, logs()
        found = children.read_text().split()
        return bool(found) and Path(f"/proc/{found[0]}/comm").read_text().strip() == "sshd"

    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    wait_until(listening, logs, timeout_s=30)
    return int(children.read_text().split()[0])

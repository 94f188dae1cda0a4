# Each target runs the commands that README.md lists.
PYTHON ?= python3
BIN := .venv/bin

# Of the target test: how many processes run the tests.
PROCESSES ?= 2

# Of the target test-ray: the version of Ray to test on.
RAY ?= 2.60

.PHONY: search test test-ray lint docs docs-serve clean

search: .venv/installed
	$(BIN)/python -m segtune.search --space configs/loss_weights.yaml
	$(BIN)/python -m segtune.confirm "$$(ls -td runs/loss_weights-*/ | head -1)" --top 1 --seeds 5

# Each process takes whole files. With more threads, the processes would wait for one another.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test-ray: .venv-ray-$(RAY)/installed
	.venv-ray-$(RAY)/bin/python -m pytest tests/cluster tests/tuning

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The documentation as a site, in site/. Fails if a link leads nowhere.
docs: .venv/installed-docs
	$(BIN)/python scripts/site_pages.py build/site-pages
	$(BIN)/zensical build --strict --clean

docs-serve: .venv/installed-docs
	$(BIN)/python scripts/site_pages.py build/site-pages
	$(BIN)/zensical serve

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@ .venv/installed

.venv/installed-docs: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e ".[docs]"
	touch $@ .venv/installed

.venv-ray-%/installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -e ".[dev]" "ray[default,train,tune]==$*.*"
	touch $@

clean:
	rm -rf .venv .venv-ray-* .pytest_cache .ruff_cache build site

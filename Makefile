# `make help` lists the targets. VENV, NEAR_CACHE and RUNS can be set.
VENV ?= .venv
PYTHON ?= python3
RUNS ?= runs/demo
PY = $(VENV)/bin/python
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(VENV)/.installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(VENV)/.installed $@

install: $(VENV)/.installed ## create .venv and install requirements.txt

assets: $(VENV)/.installed ## fetch the built-in model, embedder and data into the cache
	@$(PY) -m near.assets

demo: assets ## the whole job on real data: select, train, merge, evaluate, report
	@$(PY) bench/demo.py $(RUNS)

test: $(VENV)/.installed-dev ## the tests (under 12 minutes from nothing)
	$(PY) -m pytest

test-quick: $(VENV)/.installed-dev ## the tests that need no model (30 seconds)
	$(PY) -m pytest -m "not slow and not real and not model"

test-slow: $(VENV)/.installed-dev ## what takes minutes
	$(PY) -m pytest -m slow

lint: $(VENV)/.installed-dev ## ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean: ## remove runs/ and .cache/ (not .venv)
	rm -rf runs .cache

.PHONY: help install assets demo test test-quick test-slow lint clean

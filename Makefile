# Two commands do everything on a fresh machine with Python 3.11, git and make: `make demo`, `make test`.

# The first interpreter present that is new enough; override with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# In an environment of its own: its pins do not go with ours.
CHECKOV := .venv-checkov/bin/checkov

.PHONY: demo test test-full test-pythons lint chaos bench clean

demo: $(VENV)/.local-installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/support/demo.sh

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m 'not full'

# Whatever takes longer: every test, 10,000 tasks of chaos, and the quick tests on every other Python present.
test-full: lint chaos test-pythons $(CHECKOV)
	$(BIN)/pytest

test-pythons: $(VENV)/.dev-installed
	$(BIN)/python tests/support/other_pythons.py

chaos: $(VENV)/.dev-installed
	cd tests && ../$(BIN)/python -m chaos.run --tasks 10000

bench: $(VENV)/.dev-installed
	$(BIN)/python benchmarks/cli_startup.py
	$(BIN)/python benchmarks/lambda_cold_start.py
	$(BIN)/python benchmarks/submit_latency.py
	$(BIN)/python benchmarks/render.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python -m benchmarks.scaling
	cd benchmarks && ../$(BIN)/python -m agent

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-checkov out build dist

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: none of python3, python3.11 … is" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of packages, so that a second run installs nothing.
$(VENV)/.local-installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[local]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.local-installed

$(CHECKOV): | $(VENV)/bin/python
	$(VENV)/bin/python -m venv .venv-checkov
	.venv-checkov/bin/python -m pip --disable-pip-version-check -q install checkov==3.3.30

# Two commands matter: `make demo` and `make test`. Both set up what they need by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto

.PHONY: demo test lint unit integration chaos chaos-login clients bench clean

demo: $(VENV)/.ready
	@$(BIN)/nanokimi demo

test: lint
	@$(BIN)/pytest -n $(JOBS)

lint: $(VENV)/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir $(VENV)/.import_linter

unit: $(VENV)/.ready
	@$(BIN)/pytest -n $(JOBS) tests/unit

integration: $(VENV)/.ready
	@$(BIN)/pytest -n $(JOBS) tests/integration tests/acceptance

# 200 turns over 20 groups while the host, its sandboxes and an engine of their own are killed.
chaos: $(VENV)/.ready
	@NANOKIMI_CHAOS_GROUPS=20 NANOKIMI_CHAOS_TURNS=10 \
	    $(BIN)/pytest -q -s tests/acceptance/test_chaos.py

# The login under everything that can go wrong, with 20 + 20 sandboxes, for at least a minute.
chaos-login: $(VENV)/.ready
	@NANOKIMI_STORM_GROUPS=20 NANOKIMI_STORM_SECONDS=60 \
	    $(BIN)/pytest -q -s tests/acceptance/test_login_stays.py

# Claude Code and Kimi Code CLI against the gateway; the first time they are installed by npm.
clients: $(VENV)/.ready
	@NANOKIMI_CLIENTS=1 $(BIN)/pytest -q tests/integration/test_real_clients.py

bench: $(VENV)/.ready
	@$(BIN)/python -m bench

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11" >&2; \
	      echo "hint: make PYTHON=python3.13" >&2; exit 2; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

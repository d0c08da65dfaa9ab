# `make check` is the gate: pre-commit and .ci/run call exactly this.
PYTHON ?= python

.PHONY: check format lint types imports proto-check test generate

check: lint types imports proto-check test

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

imports:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

proto-check:
	$(PYTHON) proto/generate.py --check

test:
	$(PYTHON) -m pytest

generate:
	$(PYTHON) proto/generate.py

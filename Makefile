# Modelyard: `make` or `make help` lists what can be asked for.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
export PYTHON
export PYTHONUTF8 := 1
bin := .venv/bin

# One virtual environment, two stages: `demo` has what the product needs to run, `dev` everything.
.venv/.ready-demo: requirements/all.txt pyproject.toml
	@scripts/venv demo

.venv/.ready-dev: requirements/dev.txt pyproject.toml
	@scripts/venv dev

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: .venv/.ready-demo ## train, register, deploy, call and watch a credit score (ONCE=1 ends by itself)
	@$(bin)/modelyard demo $(if $(filter 1,$(ONCE)),--once)

.PHONY: test
test: .venv/.ready-dev ## every test: in parallel first, then the journeys one by one
	@$(bin)/python -m pytest -q -n 2 --dist loadgroup -m "not journey"
	@$(bin)/python -m pytest -q -m journey

.PHONY: check
check: .venv/.ready-dev ## style, types, floors, and what no file may say
	@echo "==> ruff check" && $(bin)/ruff check .
	@echo "==> ruff format" && $(bin)/ruff format --check .
	@echo "==> mypy" && $(bin)/mypy
	@echo "==> import-linter" && $(bin)/lint-imports --no-logo
	@echo "==> text" && $(bin)/python scripts/check-text

.PHONY: fmt
fmt: .venv/.ready-dev ## put imports and layout in order
	@$(bin)/ruff check --fix-only --quiet .
	@$(bin)/ruff format .

.PHONY: docs
docs: .venv/.ready-dev ## see that every link in the documentation leads somewhere
	@$(bin)/python scripts/docs

.PHONY: bench
bench: .venv/.ready-dev ## measure on this machine (ARGS="…" is passed on)
	@{ command -v wrk && command -v h2load; } >/dev/null || scripts/apt wrk nghttp2-client
	@$(bin)/python -m benchmarks $(ARGS)

.PHONY: soak
soak: .venv/.ready-dev ## serve for a long time and watch memory, errors and latency (ARGS="…")
	@$(bin)/python -m benchmarks soak $(ARGS)

.PHONY: lock
lock: ## write the lock files anew from pyproject.toml (UPGRADE=1 takes newer versions)
	@scripts/lock $(if $(filter 1,$(UPGRADE)),--upgrade)

.PHONY: clean
clean: ## remove the environment and all caches; .modelyard, which holds your models, stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	@find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

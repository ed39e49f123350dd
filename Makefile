# `make help` lists the targets. The long parts live in infra/dev/.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The interpreter that .venv is made with.
PYTHON ?= python3.11
export PYTHON

bin := .venv/bin
PYTEST_FLAGS ?=

.NOTPARALLEL:
.PHONY: help demo test check venv venv-dev engine engine-stop image image-here screens lint types imports \
	fast-tests all-tests fmt lock clean serve chaos chaos-here \
	compose service-images service-images-here up down

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv ## Install everything, grade the bundled sample submissions and print the reports
	@if infra/dev/engine.sh start; then \
		$(bin)/python -m sandbox.image.build; \
	else \
		echo "assay: no Docker Engine here: using the process sandbox, for trying out only, never for strangers' code."; \
	fi
	@$(bin)/assay demo --sandbox auto

test: venv-dev lint types imports ## Install what the tests need, run every check and every test
	@infra/dev/services.sh --browser
	@infra/dev/engine.sh run $(MAKE) compose image-here all-tests

check: venv-dev lint types imports fast-tests ## Fast subset: lint, types, import rules, tests without Docker and servers

venv: ## Make or renew .venv from the locked requirements
	@infra/dev/venv.sh

venv-dev: ## The same, with the tools for tests and checks
	@infra/dev/venv.sh --dev

engine: ## Use the Docker Engine that runs, or install Debian's and start it
	@infra/dev/engine.sh start

engine-stop: ## Stop the Docker Engine that `make engine` or `make demo` started
	@infra/dev/engine.sh stop

image: venv engine image-here ## Build the sandbox image

image-here:
	@echo "== Sandbox image"
	@$(bin)/python -m sandbox.image.build

serve: venv ## Run the whole service on this machine, on loopback (`assay serve --help` tells more)
	@if infra/dev/engine.sh start; then $(bin)/python -m sandbox.image.build; fi
	@$(bin)/assay serve

compose:
	@infra/dev/compose.sh

service-images: venv engine compose service-images-here ## Build the images of compose.yaml from local parts

service-images-here:
	@echo "== Service images"
	@mkdir -p .build
	@$(bin)/python infra/images/build.py >.build/images.env

up: service-images ## Start the service of compose.yaml on this machine (docs/deploy.md)
	@infra/compose/prepare.sh $$(cat .build/images.env)
	@docker compose up --detach
	@echo "assay: docker compose exec api assay keys create first --scope submit --scope read --scope manage"

down: ## Stop it; what it stored stays in its volumes
	@docker compose down

# How often the service is broken on purpose; 300 take about an hour on two processors.
INJECTIONS ?= 300

chaos: venv-dev ## Break the running service INJECTIONS times and count what is lost, doubled or wrong
	@infra/dev/services.sh
	@infra/dev/engine.sh run $(MAKE) image-here chaos-here

chaos-here:
	@$(bin)/python -m bench.chaos --injections $(INJECTIONS) --json .build/chaos.json

lint: ## Ruff and shellcheck
	@echo "== Lint"
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/shellcheck -x infra/dev/*.sh infra/host/*.sh infra/compose/*.sh infra/images/*/*.sh .ci/run

types: ## mypy --strict
	@echo "== Types"
	@$(bin)/mypy

imports: ## Which room may import which (import-linter; the rules are in pyproject.toml)
	@echo "== Import rules"
	@$(bin)/lint-imports --no-logo

fast-tests: ## Tests that need no Docker Engine, no database server and little time
	@echo "== Fast tests"
	@$(bin)/pytest -m "not docker and not services and not slow" $(PYTEST_FLAGS)

all-tests:
	@echo "== All tests"
	@$(bin)/pytest $(PYTEST_FLAGS)

screens: venv-dev ## Pictures of every page of the dashboard, into docs/screens (needs Chromium)
	@infra/dev/services.sh --browser
	@$(bin)/python -m tests.services.pages.screens docs/screens

fmt: venv-dev ## Format the code and mend what Ruff can mend
	@$(bin)/ruff format
	@$(bin)/ruff check --fix

lock: venv ## Renew the locked requirements from requirements/*.in
	@infra/dev/lock.sh

clean: engine-stop ## Remove .venv, caches and everything under .build (the Engine's own data stays)
	rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

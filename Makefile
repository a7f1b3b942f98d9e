# Everything a person does with this project. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test bench bench-limits simulate-limits chaos chaos-fuzz lint format lock up down

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv from the hash-locked requirements, and touch nothing else

$(INSTALLED): requirements/develop.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/develop.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## 200 apps in three simulated accounts, with faults, under a minute
	@$(BIN)/amplify-import demo

test: install ## Every test; Redis, RabbitMQ and Chromium are used where this machine has them
	$(BIN)/pytest

bench: install ## What an import costs: Redis commands, CPU, time to its start
	$(BIN)/python -m tests.benchmarks.bench_import

bench-limits: install ## How well hidden quotas are spent, by real workers and by rivals; 20 minutes
	$(BIN)/python -m tests.benchmarks.bench_limits --picture docs/limits.svg

simulate-limits: install ## The limiter beside other ways to spend a quota, in simulated time
	$(BIN)/python -m tests.benchmarks.simulate_limits

SEED ?= 1
FACTS ?= drawn
chaos: install ## Break everything at random under load; SEED=7 draws anew, FACTS=no-times has AWS differ
	$(BIN)/python -m tests.chaos --seed $(SEED) --facts $(FACTS)

chaos-fuzz: install ## Mutated messages through each door, 100,000 each; none may hurt a worker, stick or vanish
	$(BIN)/python -m tests.chaos.fuzz --seed $(SEED)

lint: install ## ruff, mypy --strict, the layers, and luacheck where it is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v luacheck >/dev/null; then luacheck --quiet worker/store/scripts; \
		else echo "luacheck is not installed: the Lua scripts were not linted (Debian: lua-check)"; fi

format: install ## Put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## Resolve the requirements files anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --group build pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --group dev pyproject.toml -o requirements/develop.txt

up: ## Start the Compose stack: Redis, two workers, Flower
	docker compose up --detach --build --wait

down: ## Stop the Compose stack; its data stays in the volume
	docker compose down

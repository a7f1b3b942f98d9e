# The commands for developers of this project. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The tests start hundreds of processes. Without bytecode, each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test check coverage docs bench bench-accounts bench-http bench-limits bench-memory bench-relay bench-smoke simulate simulate-limits simulate-polls chaos chaos-fuzz screenshots image-test node-packages sbom audit-packages lint format lock up down

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install the hash-locked requirements into .venv; change nothing else

$(INSTALLED): requirements/develop.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/develop.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## Import 200 apps into three simulated accounts, with faults, in under a minute
	@$(BIN)/amplify-import demo

test: install ## Run all tests; those with Redis, RabbitMQ or Chromium only if these are installed
ifdef COVERAGE
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --format=total
else
	$(BIN)/pytest
endif

coverage: ## List the lines and branches that the last `make test COVERAGE=1` did not reach
	$(BIN)/coverage report

check: lint ## Lint, run the unit tests, and test the store on one server, in about a minute
	$(BIN)/pytest --numprocesses=auto tests/unit tests/integration/test_store.py tests/integration/test_limits.py \
		tests/integration/test_lanes.py tests/integration/test_views.py tests/integration/test_history.py \
		-k "not redis"

docs: install ## Generate the reference pages, and build the site in build/site
	$(BIN)/python -m tests.documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: install ## Measure what imports cost, and write docs/benchmarks.md with its plots; ten minutes, needs redis-cli
	$(BIN)/python -m tests.benchmarks.bench

bench-smoke: install ## Run `make bench` at a tiny size, into build/bench-smoke; its figures mean nothing
	$(BIN)/python -m tests.benchmarks.bench --tiny --runs 1 --directory build/bench-smoke

bench-accounts: install ## Measure memory, CPU and the first call of 1, 100 and 1,000 accounts in one process
	$(BIN)/python -m tests.benchmarks.bench_accounts

bench-memory: install ## Measure the memory of an import, by family of keys, on each server
	$(BIN)/python -m tests.benchmarks.bench_memory

bench-relay: install ## Measure how many events a second one relay sends, by kind of sink; a minute
	$(BIN)/python -m tests.benchmarks.bench_relay

bench-http: install ## Measure how many imports a second one HTTP server admits; a minute
	$(BIN)/python -m tests.benchmarks.bench_http

bench-limits: install ## Measure how well workers and alternative limiters use hidden quotas; 20 minutes
	$(BIN)/python -m tests.benchmarks.bench_limits --picture docs/limits.svg

simulate-limits: install ## Compare the limiter with other ways to use a quota, in simulated time
	$(BIN)/python -m tests.benchmarks.simulate_limits

simulate-polls: install ## Compare schedules of polls, in simulated time; a minute
	$(BIN)/python -m tests.benchmarks.simulate_polls --picture docs/polls.svg

SEEDS ?= 1000
simulate: install ## Simulate workers, store and API in virtual time; a failing seed says how to replay it
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)
	$(BIN)/python -m tests.simulation --mutants

SEED ?= 1
FACTS ?= drawn
chaos: install ## Break everything at random under load; SEED=7 draws other faults, FACTS=no-times changes the API
	$(BIN)/python -m tests.chaos --seed $(SEED) --facts $(FACTS)

chaos-fuzz: install ## Send 100,000 mutated messages to each entry point; none may harm a worker or be lost
	$(BIN)/python -m tests.chaos.fuzz --seed $(SEED)

screenshots: install ## Take the pictures of the documentation; needs Chromium, Prometheus and tmux; four minutes
	$(BIN)/python -m tests.screenshots

IMAGE_BASE ?= registry
image-test: install ## Build the image with buildah, as root, and try it; IMAGE_BASE=debian needs mmdebstrap and no registry
	$(BIN)/python -m tests.deployment.image --base $(IMAGE_BASE) --build='$(IMAGE_BUILD)'

node-packages: ## Install the packages of the tests and examples that need Node.js
	npm ci --prefix tests/contract --ignore-scripts --no-audit --no-fund
	npm ci --prefix examples/node --ignore-scripts --no-audit --no-fund

sbom: install ## Write build/sbom.json (CycloneDX) and build/licenses.tsv, of the packages that run in production
	@mkdir -p build
	$(BIN)/uv venv --quiet --clear build/run
	$(BIN)/uv pip install --quiet --python build/run --require-hashes -r requirements/run.txt
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json build/run
	$(BIN)/python -m tests.deployment.licenses > build/licenses.tsv

audit-packages: install ## Look for known vulnerabilities of these packages; needs pypi.org
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements/run.txt

lint: install ## Run ruff, mypy --strict, import-linter, and luacheck (Debian package: lua-check)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	luacheck --quiet worker/store/scripts

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## Resolve the dependencies and rewrite the requirements files
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --group build pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --group build --extra otel --constraint requirements/run.txt \
		pyproject.toml -o requirements/otel.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --group dev --extra otel pyproject.toml -o requirements/develop.txt

up: ## Start the Compose stack: Redis, two workers, Flower
	docker compose up --detach --build --wait

down: ## Stop the Compose stack; its volume keeps the data
	docker compose down

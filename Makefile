# Millrace: `make` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE := $(VENV)/.site
RELEASE := $(VENV)/.release
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set each process compiles all that it imports anew: 0.8 s of CPU for each service, 20 for each worker of the tests.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up cluster test lint bench chaos fuzz console docs dist lock clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## Install into .venv, every package pinned and checked by its hash

$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Millrace needs Python 3.11 or newer, and $(PYTHON) is not: name one with 'make PYTHON=/path/to/python3'." >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: on Debian and Ubuntu, 'apt install python3-venv'." >&2; exit 2; }
	@"$(BIN)/python" -c '' 2>/dev/null || rm -rf "$(VENV)"
	@test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --require-hashes --requirement requirements.lock
	"$(BIN)/python" -m pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	@touch "$(STAMP)"

demo: install  ## Start everything, send a signed GitHub webhook, show the run and its chain (ARGS=--once stops afterwards)
	@exec "$(BIN)/python" -m deploy.demo $(ARGS)

up: install  ## Run the whole stack in the foreground (ARGS="--port 9000 --data DIR")
	@exec "$(BIN)/python" -m deploy.local $(ARGS)

cluster: install  ## Run three NATS servers, Postgres with a standby and two of each service in the foreground (ARGS="--data DIR")
	@exec "$(BIN)/python" -m deploy.local --cluster --data .millrace-cluster $(ARGS)

# Two for each of two cores: most tests wait most of their time. Files are begun in the order that tests/conftest.py gives them.
WORKERS ?= 4

test: install $(SITE)  ## Run every test (ARGS="-k name" for some; WORKERS=8 on a larger machine); what failed runs once more, alone
	"$(BIN)/python" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS) || \
	  { [ $$? -eq 1 ] && echo "These run once more, alone: what passes now was starved by other tests, or is a race to look for." && \
	    "$(BIN)/python" -m pytest --last-failed --last-failed-no-failures none $(ARGS); }

lint: install  ## Check style, types and import contracts
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"

bench: install  ## Run every benchmark; each prints its figure beside the limit measured in the same run
	@set -e; for file in bench/[a-z]*.py; do echo "== $$file"; "$(BIN)/python" "$$file" $(ARGS); done

chaos: install  ## Kill and pause every part under load, and count what was lost or done twice (ARGS=--quick, ARGS=--write)
	@"$(BIN)/python" -m tests.chaos.webhooks $(ARGS)
	@"$(BIN)/python" -m tests.chaos.stories $(ARGS)
	@"$(BIN)/python" -m tests.chaos.oauth $(ARGS)
	@"$(BIN)/python" -m tests.chaos.outages $(ARGS)
	@"$(BIN)/python" -m tests.chaos.waits $(ARGS)
	@"$(BIN)/python" -m tests.chaos.mending $(ARGS)
	@"$(BIN)/python" -m tests.chaos.cluster $(ARGS)
	@exec "$(BIN)/python" -m tests.chaos.runs $(ARGS)

fuzz: install  ## Send hostile values through every door, and count what did harm (ARGS="--values 200000 --each 50 --seed 7", ARGS=--write)
	@exec "$(BIN)/python" -m tests.fuzz $(ARGS)

console: install  ## Build the browser's half anew into services/gateway/pages/console (needs Node.js 20 or newer)
	cd console && npm ci --ignore-scripts && npm run build

docs: $(SITE)  ## Build the documentation as a site into build/site; a link that leads nowhere fails it
	"$(BIN)/zensical" build --strict

# Only the site is built with these: `make install` leaves them out.
$(SITE): docs.lock $(STAMP)
	"$(BIN)/python" -m pip install --quiet --require-hashes --requirement docs.lock
	@touch "$(SITE)"

dist: $(RELEASE)  ## Write a release of what is committed into dist: wheel, sdist, lock, bills of materials, sums (needs npm)
	@exec "$(BIN)/python" -m deploy.release

$(RELEASE): release.lock $(STAMP)
	"$(BIN)/python" -m pip install --quiet --require-hashes --requirement release.lock
	@touch "$(RELEASE)"

lock:  ## Write requirements.lock, docs.lock and release.lock anew (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --extra dev --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock
	for group in docs release; do \
	  uv pip compile --universal --generate-hashes --python-version 3.11 --group $$group --constraint requirements.lock --no-annotate \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file $$group.lock || exit; \
	done

clean:  ## Remove the environment and caches; data stays
	rm -rf "$(VENV)" .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/peers/*/node_modules console/node_modules

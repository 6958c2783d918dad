# `make demo`, `make up`, `make test` and `make lint` set up all they need: Python 3.11 to 3.13 and make are enough.
# Nothing is written outside this folder, unless UV_CACHE_DIR says where uv may keep its cache.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Two tests at a time; all that need a running Airflow share one group, thus one process and one Airflow (tests/e2e/conftest.py).
PYTEST_WORKERS ?= 2

bin := .venv/bin
ready := .venv/.ready

export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
# Trust what the machine trusts, never fetch another Python, and let no other environment that is active get in the way.
export UV_SYSTEM_CERTS ?= 1
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport VIRTUAL_ENV UV_PYTHON PYTHONPATH PYTHONHOME

# ---- Set-up, as shell functions. An environment without its mark, .ready, is one whose making or changing was interrupted: it is
# made anew.

define shell_functions
say() { printf '%s\n' "$$*" >&2; }

# Print the path of the interpreter behind $$1, if it is one that the project supports.
supported() {
  "$$1" -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); print(getattr(sys, "_base_executable", sys.executable)) if ok else sys.exit(1)' 2>/dev/null
}

# Print the interpreter to use: the one asked for, else the one that .venv has, else the first that fits.
find_python() {
  if [ '$(origin PYTHON)' = file ] && [ -e $(ready) ]; then supported $(bin)/python && return; fi
  supported '$(PYTHON)' && return
  if [ '$(origin PYTHON)' = file ]; then
    for candidate in python3.13 python3.12 python3.11; do supported "$$candidate" && return; done
  fi
  say "Python 3.11, 3.12 or 3.13 is needed, and '$(PYTHON)' is $$('$(PYTHON)' --version 2>/dev/null || echo 'not there')."
  say "Install one of them, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12"
  return 1
}

# One set-up at a time, where the system has a lock to offer; what it puts aside stays in this folder too.
lock() {
  mkdir -p .cache/tmp
  export TMPDIR="$$PWD/.cache/tmp"
  if command -v flock >/dev/null; then exec 9>.cache/setup.lock; flock 9; fi
}

# Set $$uv: the one on PATH if it works, else our own, pinned and hashed, in .tools.
find_uv() {
  uv=uv
  if uv pip --help >/dev/null 2>&1; then return; fi
  uv='$(CURDIR)/.tools/bin/uv'
  if [ .tools/.ready -nt requirements-tools.txt ] && "$$uv" --version >/dev/null 2>&1; then return; fi
  say 'Installing uv into .tools ...'
  rm -rf .tools
  "$$1" -m venv .tools || { say 'Python has no venv module: install it (Debian and Ubuntu: apt install python3-venv).'; return 1; }
  .tools/bin/python -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: \
    --require-hashes -r requirements-tools.txt
  touch .tools/.ready
}

# The programs that `make test-systems` starts, from the system's own packages where that may be done. One that is
# not to be had is named, and its tests are skipped.
find_programs() {
  export PATH="$$PATH:/usr/sbin"
  packages=
  if ! command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then packages=chromium; fi
  if ! command -v mariadbd >/dev/null || ! command -v mariadb-install-db >/dev/null; then
    packages="$$packages mariadb-server-core mariadb-client-core"
  fi
  if ! command -v redis-server >/dev/null; then packages="$$packages redis-server"; fi
  if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
    packages="$$packages docker-compose"
  fi
  if [ -z "$$packages" ]; then return; fi
  if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then
    say "Tests are skipped for lack of programs. Install them (Debian and Ubuntu: apt-get install $$packages)."
    return
  fi
  lock
  say "Installing $$packages for the tests ..."
  export DEBIAN_FRONTEND=noninteractive
  # A policy that refuses every start: the tests start servers of their own, and none may stay behind.
  policy=/usr/sbin/policy-rc.d
  if ! [ -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; trap "rm -f $$policy" EXIT; fi
  # shellcheck disable=SC2086 # several packages
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$packages; } >.cache/programs.log 2>&1 ||
    say 'They could not be installed; .cache/programs.log says why.'
}

is_ready() {
  for input in pyproject.toml requirements-dev.txt requirements-tools.txt; do
    [ $(ready) -nt "$$input" ] || return 1
  done
  [ "$$($(bin)/python -V 2>/dev/null)" = "$$("$$1" -V)" ]
}

# Make .venv hold what the file of requirements says, byte-compiled, and this project, editable. Wheels only: a source
# package would run build steps that no hash covers.
fill() {
  "$$uv" pip sync --quiet --python $(bin)/python --compile-bytecode --no-build --require-hashes "$$1"
  "$$uv" pip install --quiet --python $(bin)/python --no-deps --no-build-isolation --editable .
}

set_up() {
  python=$$(find_python)
  lock
  if is_ready "$$python"; then return; fi
  find_uv "$$python"
  say "Setting up .venv with $$("$$python" -V) ..."
  if ! [ -e $(ready) ] || [ "$$($(bin)/python -V 2>/dev/null)" != "$$("$$python" -V)" ]; then
    rm -rf .venv
    "$$uv" venv --quiet --no-project --python "$$python" .venv
  fi
  rm -f $(ready) $(ready)-systems
  fill requirements-dev.txt
  touch $(ready)
}

# The same with what the tests of whole systems need beside it.
set_up_systems() {
  lock
  find_uv $(bin)/python
  say 'Adding to .venv what the tests of whole systems need ...'
  rm -f $(ready)
  fill requirements-systems.txt
  touch $(ready) $(ready)-systems
}
endef
$(ready) $(ready)-systems requirements programs: export SHELL_FUNCTIONS = $(shell_functions)
functions = eval "$$SHELL_FUNCTIONS"

# Naming another Python than the one .venv was made with asks for a new .venv.
ifneq ($(filter command line environment,$(origin PYTHON)),)
ifneq ($(shell '$(PYTHON)' -V 2>/dev/null),$(shell $(bin)/python -V 2>/dev/null))
$(ready): other-python
endif
endif

$(ready): pyproject.toml requirements-dev.txt requirements-tools.txt
	@$(functions); set_up

$(ready)-systems: requirements-systems.txt | $(ready)
	@$(functions); set_up_systems

.PHONY: help setup demo up test test-systems screenshots programs bench lint lint-format lint-rules lint-types format requirements clean other-python
other-python:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(ready) ## Make .venv (the other targets do so by themselves); PYTHON=python3.12 chooses the Python

demo: $(ready) ## Remove links from a local Zoho, and show what happened to each of them
	@$(bin)/python -m include.demo

up: $(ready) ## Run Airflow and a local Zoho on this machine until Ctrl-C
	@$(bin)/python -m include.stack

run_tests = mkdir -p .cache; tmp=$$(mktemp -d "$$PWD/.cache/test.XXXXXX"); trap 'rm -rf "$$tmp"' EXIT; \
	TMPDIR="$$tmp" $(bin)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup
test: $(ready) ## Run the tests, 7 minutes; PYTEST_ARGS="-k name" passes options on
	@$(run_tests) -m 'not systems' $(PYTEST_ARGS)

test-systems: $(ready)-systems programs ## Run the tests of whole systems: browser, several workers, other databases
	@$(run_tests) -m systems $(PYTEST_ARGS)

programs:
	@$(functions); find_programs

screenshots: $(ready)-systems programs ## Take the pictures in docs/images anew
	@SCREENSHOTS=1 $(run_tests) tests/browser

bench: $(ready) ## Measure speed and cost beside what people do today, 8 minutes; BENCH_ARGS="--tiny" only tries it
	@$(bin)/python -m benchmarks $(BENCH_ARGS)

lint: lint-format lint-rules lint-types ## Check format, rules and types, as pre-commit does

lint-format: $(ready)
	@$(bin)/ruff format --check .

lint-rules: $(ready)
	@$(bin)/ruff check .

lint-types: $(ready)
	@$(bin)/mypy

format: $(ready) ## Format the code, and mend what ruff can mend
	@$(bin)/ruff check --fix-only --quiet .
	@$(bin)/ruff format .

compile = "$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $(if $(UPGRADE),--upgrade)
requirements: ## Pin the requirements anew from pyproject.toml; UPGRADE=1 takes the newest releases
	@$(functions); python=$$(find_python); lock; find_uv "$$python"; \
	export UV_CUSTOM_COMPILE_COMMAND='make requirements'; \
	$(compile) --no-annotate --output-file requirements-tools.txt - <<< 'uv'; \
	$(compile) --extra dev --output-file requirements-dev.txt pyproject.toml; \
	$(compile) --extra dev --extra systems --constraint requirements-dev.txt --output-file requirements-systems.txt pyproject.toml; \
	$(compile) --extra deploy --constraint requirements-systems.txt --output-file requirements-deploy.txt pyproject.toml; \
	$(compile) --extra postgres --constraint requirements-dev.txt --output-file requirements.txt pyproject.toml

clean: ## Remove all that the other targets made; stop `make up` first
	@if pid=$$(cat .airflow/stack.pid 2>/dev/null) && kill -0 "$$pid" 2>/dev/null; then \
	  echo "make up is running (process $$pid): stop it first." >&2; exit 1; fi
	rm -rf .venv .tools .airflow .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist .coverage .coverage.*
	find benchmarks dags include plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +

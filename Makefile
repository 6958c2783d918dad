# Every target installs what it needs. Prerequisites: Python 3.11 to 3.13 and make.
# Nothing is written outside this folder, unless UV_CACHE_DIR names another cache folder for uv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
MATRIX_ARGS ?=
# Test processes: one more than two cores, since many tests wait. Tests that share something expensive, such as a running Airflow, are in
# one xdist group (tests/support/tiers.py).
PYTEST_WORKERS ?= 3

bin := .venv/bin
ready := .venv/.ready

export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
# Use the certificates of the system, never download a Python, and ignore any other active environment.
export UV_SYSTEM_CERTS ?= 1
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without byte code on disk, each process would compile the project and its tests again.
unexport VIRTUAL_ENV UV_PYTHON PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

# ---- Set-up, as shell functions. An environment without the file .ready is incomplete (an earlier set-up was interrupted) and is
# created again.

define shell_functions
say() { printf '%s\n' "$$*" >&2; }

# Print the path of the interpreter behind $$1 if the project supports its version.
supported() {
  "$$1" -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); print(getattr(sys, "_base_executable", sys.executable)) if ok else sys.exit(1)' 2>/dev/null
}

# Print the interpreter to use: the one given as PYTHON, else that of .venv, else the first supported one on PATH.
find_python() {
  if [ '$(origin PYTHON)' = file ] && [ -e $(ready) ]; then supported $(bin)/python && return; fi
  supported '$(PYTHON)' && return
  if [ '$(origin PYTHON)' = file ]; then
    for candidate in python3.13 python3.12 python3.11; do supported "$$candidate" && return; done
  fi
  say "Python 3.11, 3.12 or 3.13 is required; '$(PYTHON)' is $$('$(PYTHON)' --version 2>/dev/null || echo 'not installed')."
  say "Install one of these versions, or give its path: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12"
  return 1
}

# One set-up at a time, where flock exists; temporary files stay in this folder.
lock() {
  mkdir -p .cache/tmp
  export TMPDIR="$$PWD/.cache/tmp"
  if command -v flock >/dev/null; then exec 9>.cache/setup.lock; flock 9; fi
}

# Set $$uv: the one on PATH if it works, else the pinned one in .tools.
find_uv() {
  uv=uv
  if uv pip --help >/dev/null 2>&1; then return; fi
  uv='$(CURDIR)/.tools/bin/uv'
  if [ .tools/.ready -nt requirements-tools.txt ] && "$$uv" --version >/dev/null 2>&1; then return; fi
  say 'Installing uv into .tools ...'
  rm -rf .tools
  "$$1" -m venv .tools || { say 'The Python module venv is missing: install it (Debian and Ubuntu: apt install python3-venv).'; return 1; }
  .tools/bin/python -m pip install --quiet --no-cache-dir --no-deps --only-binary :all: \
    --require-hashes -r requirements-tools.txt
  touch .tools/.ready
}

# Install the programs that `make test-systems` starts as system packages, when run as root on Debian or Ubuntu.
# Otherwise print what is missing; the tests that need a missing program are skipped.
find_programs() {
  export PATH="$$PATH:/usr/sbin"
  packages=
  if ! command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then packages=chromium; fi
  if ! command -v mariadbd >/dev/null || ! command -v mariadb-install-db >/dev/null; then
    packages="$$packages mariadb-server-core mariadb-client-core"
  fi
  if ! command -v redis-server >/dev/null; then packages="$$packages redis-server"; fi
  if ! command -v pgbouncer >/dev/null; then packages="$$packages pgbouncer"; fi
  if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
    packages="$$packages docker-compose"
  fi
  if [ -z "$$packages" ]; then return; fi
  if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then
    say "Some programs are missing, so that their tests are skipped. To install them on Debian or Ubuntu: apt-get install $$packages"
    return
  fi
  lock
  say "Installing $$packages for the tests ..."
  export DEBIAN_FRONTEND=noninteractive
  # Keep the packages from starting services: the tests start and stop their own servers.
  policy=/usr/sbin/policy-rc.d
  if ! [ -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; trap "rm -f $$policy" EXIT; fi
  # shellcheck disable=SC2086 # several packages
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$packages; } >.cache/programs.log 2>&1 ||
    say 'The installation failed; see .cache/programs.log.'
}

is_ready() {
  for input in pyproject.toml requirements-dev.txt requirements-tools.txt; do
    [ $(ready) -nt "$$input" ] || return 1
  done
  [ "$$($(bin)/python -V 2>/dev/null)" = "$$("$$1" -V)" ]
}

# Install the requirements file $$1 into .venv, byte-compiled, and this project as editable. Wheels only: a source
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

# The same with the extra packages of `make test-systems`.
set_up_systems() {
  lock
  find_uv $(bin)/python
  say 'Adding the packages of make test-systems to .venv ...'
  rm -f $(ready)
  fill requirements-systems.txt
  touch $(ready) $(ready)-systems
}
endef
$(ready) $(ready)-systems requirements package vulnerabilities programs test-matrix: export SHELL_FUNCTIONS = $(shell_functions)
functions = eval "$$SHELL_FUNCTIONS"

# A PYTHON other than that of .venv creates a new .venv.
ifneq ($(filter command line environment,$(origin PYTHON)),)
ifneq ($(shell '$(PYTHON)' -V 2>/dev/null),$(shell $(bin)/python -V 2>/dev/null))
$(ready): other-python
endif
endif

$(ready): pyproject.toml requirements-dev.txt requirements-tools.txt
	@$(functions); set_up

$(ready)-systems: requirements-systems.txt | $(ready)
	@$(functions); set_up_systems

.PHONY: help setup demo up test test-unit test-systems test-matrix screenshots programs bench package vulnerabilities lint lint-format lint-rules lint-types lint-words lint-workflows format requirements clean other-python
other-python:

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(ready) ## Create .venv (other targets do this too); PYTHON=python3.12 selects the Python

demo: $(ready) ## Run the sample job against a local Zoho and check every outcome
	@$(bin)/python -m include.demo

up: $(ready) ## Run Airflow and a local Zoho until Ctrl-C
	@$(bin)/python -m include.stack

run_tests = mkdir -p .cache; tmp=$$(mktemp -d "$$PWD/.cache/test.XXXXXX"); trap 'rm -rf "$$tmp"' EXIT; \
	TMPDIR="$$tmp" $(bin)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup
test-unit: PYTEST_WORKERS = 2 # they wait for nothing
test-unit: $(ready) ## Run the tests that start no server and no Airflow
	@$(run_tests) tests/plugins tests/dags tests/deploy tests/docs -m 'not integration and not e2e and not browser and not systems' $(PYTEST_ARGS)

test: $(ready) ## Run the unit, integration and end-to-end tests; PYTEST_ARGS="-k name" passes options to pytest
	@$(run_tests) -m 'not systems' $(PYTEST_ARGS)

test-systems: $(ready)-systems programs ## Run the system tests: browser, Celery workers, MariaDB, PgBouncer, DuckDB
	@$(run_tests) -m systems $(PYTEST_ARGS)

test-matrix: ## Run the tests on other Airflow releases; MATRIX_ARGS="3.1 newest" chooses rows
	@$(functions); python=$$(find_python); lock; find_uv "$$python"; exec 9>&-; \
	UV="$$uv" "$$python" -m tests.matrix $(MATRIX_ARGS)

programs:
	@$(functions); find_programs

screenshots: $(ready)-systems programs ## Update the screenshots in docs/images
	@export SCREENSHOTS=1; $(run_tests) tests/browser

bench: $(ready) ## Measure throughput and cost, 9 minutes; BENCH_ARGS="--tiny" is a quick trial
	@$(bin)/python -m benchmarks $(BENCH_ARGS)

lint: lint-format lint-rules lint-types lint-words lint-workflows ## Check format, rules, types, wording and workflows, as pre-commit does

lint-format: $(ready)
	@$(bin)/ruff format --check .

lint-rules: $(ready)
	@$(bin)/ruff check .

lint-types: $(ready)
	@$(bin)/mypy

lint-words: $(ready)
	@git ls-files -z | xargs -0 $(bin)/codespell

lint-workflows: $(ready)
	@$(bin)/zizmor --offline --no-progress --quiet .github

format: $(ready) ## Format the code and apply ruff's automatic fixes
	@$(bin)/ruff check --fix-only --quiet .
	@$(bin)/ruff format .

compile = "$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $(if $(UPGRADE),--upgrade)
requirements: ## Update requirements*.txt from pyproject.toml; UPGRADE=1 upgrades to the latest releases
	@$(functions); python=$$(find_python); lock; find_uv "$$python"; \
	export UV_CUSTOM_COMPILE_COMMAND='make requirements'; \
	$(compile) --no-annotate --output-file requirements-tools.txt - <<< 'uv'; \
	$(compile) --group dev --output-file requirements-dev.txt pyproject.toml; \
	$(compile) --group dev --group systems --constraint requirements-dev.txt --output-file requirements-systems.txt pyproject.toml; \
	$(compile) --group deploy --constraint requirements-systems.txt --output-file requirements-deploy.txt pyproject.toml; \
	$(compile) --extra postgres --constraint requirements-dev.txt --output-file requirements.txt pyproject.toml; \
	$(compile) --no-annotate --output-file requirements-package.txt --group package

# The environment of the tools that check a release, apart from .venv: no other target needs them.
package_tools := .cache/package-tools
define set_up_package
	python=$$(find_python); lock; find_uv "$$python"; \
	if ! [ $(package_tools)/.ready -nt requirements-package.txt ]; then \
	  say 'Installing the tools of make package ...'; \
	  rm -rf $(package_tools); "$$uv" venv --quiet --no-project --python "$$python" $(package_tools); \
	  "$$uv" pip sync --quiet --python $(package_tools)/bin/python --no-build --require-hashes requirements-package.txt; \
	  touch $(package_tools)/.ready; \
	fi
endef
package: ## Build wheel and source package into dist, check them, and add an SBOM and checksums
	@$(functions); $(set_up_package); UV="$$uv" PYTHON="$$python" TOOLS=$(package_tools)/bin scripts/package.sh

vulnerabilities: ## Look the pinned packages up in PyPI's database of known vulnerabilities
	@$(functions); $(set_up_package); $(package_tools)/bin/pip-audit --progress-spinner off --disable-pip --require-hashes \
	  --requirement requirements.txt --requirement requirements-deploy.txt

clean: ## Delete everything the other targets created; stop `make up` first
	@if pid=$$(cat .airflow/stack.pid 2>/dev/null) && kill -0 "$$pid" 2>/dev/null; then \
	  echo "make up is running (process $$pid): stop it first with Ctrl-C." >&2; exit 1; fi
	rm -rf .venv .tools .airflow .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist .coverage .coverage.*
	find benchmarks dags include plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up, tests and checks. `make` lists the targets.
#
#   PYTHON=python3.12   the Python that a new .venv is made with
#   TORCH_INDEX=URL     a further package index, such as one with torch's smaller CPU builds
#   ARGS="-k proof -x"  passed on to pytest, or to the demo: ARGS="--backbone resnet50"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := protuning adapters service training benchmarks deploy examples tests

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format audit check clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(INSTALLED) ## make the environment in .venv and install everything into it

demo: $(INSTALLED) ## train three small tasks, serve them together, show what happened; offline
	$(BIN)/python -m examples.demo $(ARGS)

test: $(INSTALLED) ## install, then the whole test suite
	deploy/install-system-packages.sh $(PYTHON) redis compiler
	deploy/get-prometheus.sh $(CURDIR)/$(VENV)/prometheus
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff, mypy and the import rules
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## put the code into the project's format
	$(BIN)/ruff check --fix $(PACKAGES)
	$(BIN)/ruff format $(PACKAGES)

# --strict: a package that the service does not know is no package without holes.
audit: $(INSTALLED) ## look for known security holes in what is installed; asks PyPI's advisories
	@$(BIN)/pip-audit --strict --skip-editable --progress-spinner off || { \
		echo "audit failed. A table above lists holes and the releases that mend them. An error above means that"; \
		echo "the advisory service cannot be reached from here, and that NOTHING was checked: run it elsewhere."; \
		exit 1; }

check: lint test ## everything that CI runs

clean: ## remove the environment and all caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# The stamp makes the second call instant; a changed pyproject.toml installs again.
$(INSTALLED): pyproject.toml deploy/install-system-packages.sh
	deploy/install-system-packages.sh $(PYTHON)
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) # without pip it is a half-made one
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable . --group demo --group test --group lint
	touch $@

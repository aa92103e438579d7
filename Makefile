# Every target works alone on a machine with Python 3.11+, make and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.PHONY: help serve test test-deploy test-image test-cluster rules lint audit format bench compare loadtest chaos clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

serve: $(VENV)/.installed ## Serve the bundled model on http://127.0.0.1:8000
	$(BIN)/coordserve serve

test: $(VENV)/.installed-test ## Run every test that needs no GPU and no root
	$(BIN)/pytest -m "not cuda and not image and not cluster"

test-deploy: $(VENV)/.installed-test ## Check manifests, alerts and Dockerfile (kubectl, prometheus; no cluster, no root)
	$(BIN)/pytest tests/deploy -m "not image and not cluster"

test-image: $(VENV)/.installed-test ## Build the image and run it as a restricted pod would (needs podman and root)
	$(BIN)/pytest tests/deploy -m image

test-cluster: $(VENV)/.installed-test ## Deploy to the cluster of KUBECONFIG, roll out, drain, lose no request (the image is there)
	$(BIN)/pytest tests/deploy -m cluster

rules: $(VENV)/.installed ## Make the Prometheus operator's rules of deploy/components/monitoring/rules.yaml
	$(BIN)/python deploy/components/monitoring/make_prometheusrule.py

lint: $(VENV)/.installed-dev ## Check style, types and the usual weaknesses
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive service models

audit: $(VENV)/.installed-dev ## Look for weaknesses, vulnerable dependencies (asks the network) and binding licences
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive service models
	$(BIN)/python -m tests.audit.vulnerabilities
	$(BIN)/python -m tests.audit.licences

format: $(VENV)/.installed-dev ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-bench ## Measure the service on this machine into docs/benchmarks.md (20 minutes; needs wrk)
	$(BIN)/python -m loadtests.bench --out docs/benchmarks.md

loadtest: $(VENV)/.installed-test ## Load the service for half a minute, judge it by loadtests/slo.toml, write loadtest.html
	$(BIN)/python -m loadtests.loadtest --out loadtest.html

compare: $(VENV)/.installed-test ## Measure other servers beside it into docs/comparison.md (an hour; needs wrk, java)
	$(BIN)/python -m loadtests.compare --out docs/comparison.md --json comparison.json

chaos: $(VENV)/.installed-test ## Try to break the service, in full, into docs/reliability.md (an hour; needs haproxy)
	$(BIN)/python -m loadtests.chaos --out docs/reliability.md

clean: ## Remove everything that was made here
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache comparison.json loadtest.html

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "coordserve needs Python 3.11 or newer; name one with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "installing into $(VENV) (some minutes the first time)"
	$(INSTALL) .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) '.[test]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(INSTALL) '.[bench]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(INSTALL) '.[dev]'
	@touch $@

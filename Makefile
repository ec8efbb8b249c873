# `make run`: the whole chain on the embedded default. `make test`: linters, types and the whole test suite.
# Both make the environment they need in $(VENV) from the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# processes of the test suite, each with one thread
JOBS ?= 2
export DO_NOT_TRACK := true
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: run test lint format viz mlflow publish study study-plan publish-pages bench clean

run: $(VENV)/.run
	$(BIN)/kedro run

# Tests that run the graph are run by themselves and do not count as coverage: to trace them would take twice the time.
GRAPH_TESTS := tests/pipelines tests/rl/test_specification.py tests/study/test_whole_study.py \
	tests/rewriting/test_pipeline.py tests/test_notebook.py
# tests/conftest.py puts the longest files first, which xdist would sort by their numbers of tests
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) $(GRAPH_TESTS)
	$(PYTEST) $(addprefix --ignore=,$(GRAPH_TESTS)) --cov=flexrec --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

viz: $(VENV)/.run
	$(BIN)/kedro viz

mlflow: $(VENV)/.run
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlflow.db

# The newest results of the default dataset's runs into README.md and docs/results; another place by RESULTS=...
RESULTS ?= data/08_reporting/ml-100k

publish: $(VENV)/.run
	$(BIN)/python -m flexrec.reporting.publish $(RESULTS)

# A study of conf/base/parameters_study.yml: what is missing of its runs, then its tables and figures (docs/study.md).
# `make study-plan` says how long that may take.
STUDY ?= default
PAGES ?= data/08_reporting/study/$(STUDY)

study: $(VENV)/.run
	$(BIN)/kedro run --pipeline=study --params study=$(STUDY)

study-plan: $(VENV)/.run
	$(BIN)/kedro run --pipeline=study_plan --params study=$(STUDY)

# The tables of a study into docs/results; by PAGES=data/08_reporting/... those of the planted-truth study, query rewriting,
# the probe, forgetting and a chat endpoint.
publish-pages: $(VENV)/.run
	$(BIN)/python -m flexrec.reporting.publish_pages $(PAGES)

# The engine's benchmarks on a CPU, one after the other, and docs/benchmarks.md of their results. More of them, or
# another commit to compare with: benchmarks/README.md.
AGAINST ?= 8c32d603f52b
VLLM_PYTHON ?=

bench: $(VENV)/.run
	@echo "On two cores this takes about an hour and a half; nothing else should run meanwhile."
	$(BIN)/python -m benchmarks.rewards
	$(BIN)/python -m benchmarks.step --against $(AGAINST)
	$(BIN)/python -m benchmarks.step_profile
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.sampling $(if $(VLLM_PYTHON),--vllm-python $(VLLM_PYTHON))
	$(BIN)/python -m benchmarks.update
	$(BIN)/python -m benchmarks.greedy
	$(BIN)/python -m benchmarks.report

clean:
	find data -type f ! -name .gitkeep -delete
	find data -mindepth 2 -type d -empty -delete

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "flexrec needs Python 3.11 or newer; name one with 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.run

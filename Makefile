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
	$(BIN)/mlflow ui --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db"

# The newest results of the default dataset's runs into docs/results and, in place of its tables, README.md. RESULTS=...
# takes those of another place instead; `python -m flexrec.reporting.publish PLACE --readme COPY` leaves README.md alone.
RESULTS ?= data/08_reporting/ml-100k

publish: $(VENV)/.run
	$(BIN)/python -m flexrec.reporting.publish $(RESULTS)

# A study of conf/base/parameters_study.yml: what is missing of its runs, then its tables and figures (docs/study.md).
# `make study-plan` says how long that may take.
STUDY ?= default
PAGES ?= data/08_reporting/study/$(STUDY)

study: $(VENV)/.run
	$(BIN)/kedro run --pipelines=study --params study=$(STUDY)

study-plan: $(VENV)/.run
	$(BIN)/kedro run --pipelines=study_plan --params study=$(STUDY)

# The tables of a study into docs/results; by PAGES=data/08_reporting/... those of the planted-truth study, query rewriting,
# the probe, forgetting, headroom and a chat endpoint.
publish-pages: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[publish]'
	$(BIN)/python -m flexrec.reporting.publish_pages $(PAGES)

# All benchmarks on a CPU, one after the other, and docs/benchmarks.md of their results. Every program, or part of one,
# replaces its own older result. What else can be said to it: benchmarks/README.md.
AGAINST ?= 8c32d603f52b
REPETITIONS ?= 2
BENCH_FOLDER ?= build/benchmarks
VLLM_PYTHON ?=
RECBOLE_PYTHON ?=
KUAIREC_SAMPLE ?=
BENCH := $(BIN)/python -m benchmarks

bench: $(VENV)/.dev
	@echo "On two cores with 24 GiB this takes about two and a half hours; nothing else should run meanwhile."
	mkdir -p $(BENCH_FOLDER)
	$(BENCH).rewards
	$(BENCH).step --repetitions $(REPETITIONS) --against $(AGAINST)
	$(BENCH).step_profile
	$(BENCH).memory
	$(BENCH).sampling --repetitions $(REPETITIONS)
	$(if $(VLLM_PYTHON),$(BENCH).sampling --part vllm --without-trl --vllm-python $(VLLM_PYTHON))
	$(BENCH).update --cases a --dtype bfloat16 --repetitions $(REPETITIONS)
	$(BENCH).update --part float32 --cases a --dtype float32 --weights full --without-replicated \
		--repetitions $(REPETITIONS)
# with all 16 rollouts stock TRL takes 43 GiB, and so many whole prompts are too much for the replicated side, too
	$(BENCH).update --part long --cases b --micro-batch 4 --without-replicated --repetitions $(REPETITIONS)
	$(BENCH).greedy --repetitions $(REPETITIONS)
	$(BENCH).tabular --folder $(BENCH_FOLDER) --rows 1000000 4000000 12530806 50000000
	$(BENCH).data $(if $(KUAIREC_SAMPLE),--sample $(KUAIREC_SAMPLE))
	$(BENCH).critic
	$(BENCH).search
	$(BENCH).bert4rec $(if $(RECBOLE_PYTHON),--recbole-python $(RECBOLE_PYTHON))
	$(BENCH).report

clean:
# what was put into data/01_raw by hand stays, and answers that were paid for
	find data -path data/01_raw -prune -o -type f ! -name .gitkeep ! -name '*_cache.sqlite' -exec rm -f {} +
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

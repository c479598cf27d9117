# Everything runs in .venv, made on first use with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
HOME_FOLDER := $(or $(ENGINEGATE_HOME),.enginegate)
INSTALLED := .venv/.installed
# Triton's Python backend needs a NumPy that newer Pythons have no wheel of.
TRITON_PYTHON ?= python3.11
TRITON := .triton/.installed
SOURCES := flows tasks validation tests examples

.PHONY: demo triton test hardship zoo lint bench ui install
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "installing into .venv (once; torch makes it some minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[export,s3,rtx,dev]'
	@$(BIN)/python -m compileall -q flows tasks validation  # child processes write no bytecode, and have it so
	@touch $@

triton: $(TRITON)  ## make .triton/: a Triton server, for `enginegate serve` and the tests

$(TRITON): infra/triton/install infra/triton/requirements.txt infra/triton/wheels.txt
	@echo "installing Triton into .triton (once; 90 MB)"
	@infra/triton/install $(TRITON_PYTHON)

demo: $(INSTALLED)  ## convert the essay scorer to FP16 and INT8 engines, judge and register them
	$(BIN)/enginegate convert examples/essay_scorer --target cpu
	$(BIN)/enginegate engines

# One worker more than there are processors: a third of the time, a test waits for a server.
WORKERS = $(shell echo $$(($$(nproc) + 1)))

test: $(INSTALLED) $(TRITON)  ## run every test
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

hardship: $(INSTALLED) $(TRITON)  ## races and kill loops with their large numbers, before a release
	$(BIN)/pytest --numprocesses auto --dist worksteal --hardship -m hardship

zoo: $(INSTALLED)  ## convert 44 models, and hold their verdicts against the right ones; three quarters of an hour
	$(BIN)/python tests/zoo/run.py

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(MAKE) --no-print-directory $(RESOLVED)

# Whether the pins can be installed on a Python: nothing is, and that Python need not be here. 3.10 is a runner's alone.
RESOLVED := resolve-3.10 resolve-3.11 resolve-3.12 resolve-3.13
resolve-3.10: EXTRAS := --extra s3 --extra tensorrt
resolve-%: EXTRAS := --extra export --extra s3 --extra tensorrt --extra rtx --extra dev
.PHONY: $(RESOLVED)
$(RESOLVED): resolve-%: $(INSTALLED)
	@$(BIN)/uv pip compile --quiet --no-config --python-version $* --python-platform linux $(EXTRAS) --constraint constraints.txt --output-file /dev/null pyproject.toml
	@echo "Python $*: every pin resolves"

bench: $(INSTALLED)  ## measure what README promises; prints a table, writes bench.json
	$(BIN)/python tests/benchmarks/run.py

ui: $(INSTALLED)  ## open MLflow on what was logged
	@echo "open http://127.0.0.1:5000/#/experiments/1/runs for the first model's runs"
	$(BIN)/mlflow server --backend-store-uri "$(or $(MLFLOW_TRACKING_URI),sqlite:///$(HOME_FOLDER)/mlflow.db)" --host 127.0.0.1 --port 5000

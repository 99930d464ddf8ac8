# `make demo` and `make test` are all a newcomer needs; each installs what it wants first, into .venv.
# PYTHON: any interpreter from 3.11 to 3.13.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := stream_app models training tests
# One thread per process unless said otherwise: small tensors gain nothing from more, and results stay comparable.
export OMP_NUM_THREADS ?= 1

.PHONY: help install lint types fast kafka test demo soak clean

help:
	@echo "make demo     everything on an embedded broker, ending with alerts on the screen"
	@echo "make test     lint, types, tests (those on Apache Kafka last; they want Java 17 and Maven)"
	@echo "make install  .venv/bin/tailrace"
	@echo "make soak     the long tests"
	@echo "make lint     formatting and lint alone"

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(None if ok else "Tailrace needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "python3 -m venv does not work here; on Debian: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }
	@echo "== install: the first time brings about 3 GB, most of it torch"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

lint: install
	@echo "== lint"
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: install
	@echo "== types"
	$(BIN)/mypy

fast: install
	@echo "== tests without Apache Kafka"
	$(BIN)/python -m pytest -m "not kafka and not soak" -n 2

kafka: install
	@echo "== tests on Apache Kafka"
	$(BIN)/python -m pytest -m "kafka and not soak" -n 2 --dist loadfile

# One after the other also under `make -j`: a lint error should not wait for Kafka, and stages should not share two cores.
test: install
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory fast
	@$(MAKE) --no-print-directory kafka

demo: install
	@$(BIN)/tailrace demo

soak: install
	$(BIN)/python -m pytest -m soak --timeout=0

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

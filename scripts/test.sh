#!/usr/bin/env bash
# The whole test suite, in a virtual environment of its own. Arguments go to pytest.
# Three processes, each with whole files, and with all files that share a swarm: see tests/conftest.py. They wait for
# one another in half of their time, so there is one more than CI has cores. One thread for torch in each: small models
# on a few cores only get in each other's way with more.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment dev
OMP_NUM_THREADS=1 exec python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"

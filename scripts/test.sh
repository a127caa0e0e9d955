#!/usr/bin/env bash
# The whole test suite, in a virtual environment of its own. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment dev
exec python -m pytest "$@"

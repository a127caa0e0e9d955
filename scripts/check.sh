#!/usr/bin/env bash
# Formatting, lint and types.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment dev
ruff format --check .
ruff check .
mypy
python scripts/cli_docs.py --check
python scripts/tree.py --check

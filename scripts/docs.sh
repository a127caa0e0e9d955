#!/usr/bin/env bash
# Writes the generated parts of the documentation.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment
python scripts/cli_docs.py
python scripts/tree.py

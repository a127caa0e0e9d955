#!/usr/bin/env bash
# Writes the generated part of the documentation.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment
exec python scripts/cli_docs.py

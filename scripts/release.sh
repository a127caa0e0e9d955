#!/usr/bin/env bash
# Builds what people install, into dist/: see scripts/release.py. Arguments go there.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment dev
exec python scripts/release.py "$@"

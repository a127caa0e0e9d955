#!/usr/bin/env bash
# A whole network on this machine: a bootstrap, two workers, a gateway, and a question. Runs until Ctrl-C; ONCE=1 leaves
# after the answer. PORT chooses the gateway's port; when it is in use, another one is taken.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
use_environment
exec python scripts/demo.py ${ONCE:+--once} ${PORT:+--port "$PORT"}

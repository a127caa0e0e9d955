#!/usr/bin/env bash
# The suite at its deepest: many more examples, the storms and long stories at full length. Arguments go to pytest.
set -euo pipefail
P2PNET_TEST_DEPTH=deep exec "$(dirname "$0")/test.sh" "$@"

# Sourced by the other scripts: makes or refreshes the virtual environment in .venv and puts it first on PATH.
# `use_environment` installs what running needs, `use_environment dev` what the tests and checks need too.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "p2pnet needs Python 3.11 or later, and found none on PATH." >&2
    return 1
}

use_environment() {
    local extra="${1:-}"
    local python stamp
    python=$(find_python)
    stamp=".venv/.installed-${extra:-run}"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    if [ ! "$stamp" -nt pyproject.toml ] || [ ! "$stamp" -nt constraints.txt ]; then
        echo "Installing into .venv (a few minutes the first time: torch is large) ..."
        # torch first and by its exact version: a range would bring gigabytes of CUDA libraries where a CPU build is at hand.
        .venv/bin/python -m pip install -q --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
        # llama.cpp is built here, for minutes, the first time: pip keeps what it has built. By itself it is built for what
        # the processor names, which a virtual machine may not allow.
        if [ "$(uname -m)" = x86_64 ]; then
            export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON}"
        fi
        .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
        touch "$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}

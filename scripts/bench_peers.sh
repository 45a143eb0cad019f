#!/usr/bin/env bash
# Training speed on a CPU beside other toolkits: install them, each into an environment of its own below $PEERS_DIR
# (default ~/.cache/tmt_peers), and measure. Run it where `tmt` is installed and nothing else is running:
#   TMT_DATA=FOLDER scripts/bench_peers.sh [--quick] [--only tmt,hf] [--models tiny] [--repeats 3] [--steps 30]
# pip must find the CPU build of torch, or gigabytes of CUDA come along; with the usual index:
#   export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
set -euo pipefail
scripts="$(cd "$(dirname "$0")" && pwd)"
export PEERS_DIR="${PEERS_DIR:-$HOME/.cache/tmt_peers}"

install() { # NAME, then the arguments of each further pip call, one call an argument
    local peer="$PEERS_DIR/$1" call
    shift
    [ -e "$peer/installed" ] && return
    echo "Installing into $peer ..." >&2
    "${PYTHON:-python3.11}" -m venv "$peer"
    for call in "torch==2.13.0" "$@"; do
        # shellcheck disable=SC2086  # words of a call are arguments
        "$peer/bin/python" -m pip install --quiet $call
    done
    touch "$peer/installed"
}

install hf "torch==2.13.0 transformers==5.23.0 numpy"
install eole "torch==2.13.0 eole==0.6.4 aiohttp"
# Sockeye asks for torch 1 and runs with torch 2; what it imports besides:
install sockeye "numpy<2 pyyaml sacrebleu==2.6.0" "--no-deps sockeye==3.1.34"
install joeynmt "torch==2.13.0 joeynmt==2.3.0 importlib_metadata sentencepiece==0.2.0"

exec python "$scripts/bench_peers.py" "$@"

#!/usr/bin/env bash
# Table 3 of the paper in small: its rows (A) to (E) as variations of one model that trains in minutes on one core.
# Needs $TMT_DATA/tatoeba_en_de; what is trained already is not trained again. Options: --help.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/reproduce_table3.py --data "${TMT_DATA:-data}/tatoeba_en_de" --output runs/table3 "$@"

#!/usr/bin/env bash
# From nothing to a translator: install, train on the built-in corpus, translate sentences it has never seen.
# Needs Python 3.11 or newer; a few minutes on two cores. Writes .venv and runs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || python3 -m venv .venv
echo "Installing into .venv ..."
.venv/bin/python -m pip install --quiet --editable .
export PATH="$PWD/.venv/bin:$PATH"

run=runs/quickstart
started=$SECONDS
tmt train configs/quickstart.yaml --output "$run" --resume

# Held-out sentences of the built-in grammar: none of them is in the training set.
python - "$run" <<'PY'
import sys
from pathlib import Path

from transformer_mt.toy_corpus.grammar import generate

sides = zip(*generate("test", 500), strict=True)
for name, lines in zip(("test.en", "test.de"), sides, strict=True):
    Path(sys.argv[1], name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
PY
tmt translate "$run" --input "$run/test.en" --output "$run/test.out"

echo
echo "Held-out sentences: English, the model's German, the grammar's German."
echo
paste <(head -n 10 "$run/test.en") <(head -n 10 "$run/test.out") <(head -n 10 "$run/test.de") |
    awk -F '\t' '{ printf "  %s\n    model      %s\n    reference  %s\n\n", $1, $2, $3 }'
tmt eval --hyp "$run/test.out" --ref "$run/test.de" --metrics bleu,chrf
echo
echo "Trained, translated and scored in $((SECONDS - started)) seconds. What next:"
echo "  . .venv/bin/activate"
echo "  echo 'The old teacher will open the door tomorrow.' | tmt translate $run"
echo "  tmt init --src train.en --tgt train.de --output my.yaml    # with your own two text files"
echo "  tmt train my.yaml"

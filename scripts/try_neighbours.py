"""Whether the values that `tmt init` chose are good ones: train its configuration, and others with one value changed.

    tmt init --src train.en --tgt train.de --output my.yaml
    python scripts/try_neighbours.py my.yaml --output runs/my_neighbours             # hours: a training a line
    python scripts/try_neighbours.py my.yaml --output runs/my_neighbours --show      # what it would train, or has

Four sizes of corpora, with $TMT_DATA the folder of texts:

    zcat $TMT_DATA/tatoeba_en_de/train.en.gz | awk 'NR%80==0' | head -2000 > small.en    # and .de: 2,000 pairs
    tmt init --src small.en --tgt small.de --output small.yaml
    tmt init --src $TMT_DATA/multi30k/train.en.gz --tgt $TMT_DATA/multi30k/train.de.gz --output multi30k.yaml \\
        --valid-src $TMT_DATA/multi30k/val.en.gz --valid-tgt $TMT_DATA/multi30k/val.de.gz \\
        --test-src $TMT_DATA/multi30k/test_2016_flickr.en.gz --test-tgt $TMT_DATA/multi30k/test_2016_flickr.de.gz
    (the same for tatoeba_en_de and canada_laws_en_fr, with their valid and test files)

Trainings that have ended are not done again, others go on where they stopped: it may be killed at any time. The table
has the best validation scores, which neighbours are compared by; the test text is that of the chosen values alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_mt.config.loading import load_config
from transformer_mt.config.sections import Config


def neighbours(config: Config) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the changed keys of each variant: what was chosen first, then one value after the other."""
    model, batch, optim, train = config.model, config.batch, config.optim, config.train
    yield "chosen", []
    for dropout in (model.dropout - 0.1, model.dropout + 0.1):
        yield f"dropout_{dropout:.1f}", [f"model.dropout={max(0.0, dropout):.1f}"]
    for factor in (0.5, 2):
        yield f"vocab_size_x{factor}", [f"tokenizer.vocab_size={round(config.tokenizer.vocab_size * factor)}"]
        # As many tokens in all, in more or fewer steps.
        steps = [f"train.{key}={round(getattr(train, key) / factor)}" for key in ("max_steps", "eval_steps")]
        yield f"max_tokens_x{factor}", [f"batch.max_tokens={round(batch.max_tokens * factor)}", *steps]
        yield f"warmup_x{factor}", [f"optim.warmup_steps={round(optim.warmup_steps * factor)}"]
        steps = [f"train.{key}={round(getattr(train, key) * factor)}" for key in ("max_steps", "eval_steps")]
        yield f"max_steps_x{factor}", steps
        if optim.lr is not None:
            yield f"lr_x{factor}", [f"optim.lr={optim.lr * factor:.2g}"]
    norm = "post" if model.norm == "pre" else "pre"
    yield f"norm_{norm}", [f"model.norm={norm}"]
    if optim.optimizer == "muon":
        yield "adam", ["optim.optimizer=adam"]
    layers = (
        f"model.num_encoder_layers={model.num_encoder_layers + 2}",
        f"model.num_decoder_layers={model.num_decoder_layers + 2}",
    )
    yield "deeper", [*layers]
    yield (
        "wider",
        [
            f"model.d_model={2 * model.d_model}",
            f"model.d_ff={2 * model.d_ff}",
            f"optim.lr={(optim.lr or 0.0007) / 2:.2g}",
        ],
    )
    if config.tokenizer.type == "bpe":
        yield "bpe_dropout", [f"tokenizer.bpe_dropout={0.0 if config.tokenizer.bpe_dropout else 0.1}"]
    yield "no_cleaning", ["data.clean={drop_held_out: true}"]


def result(run: Path, metric: str) -> dict[str, Any]:
    """Return the best validation of a run, its test scores, its steps, and the seconds that validating took."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    records = [json.loads(line) for line in lines]
    valid = [one for one in records if one["kind"] == "valid"]
    if not valid:
        return {}
    best = (min if metric == "loss" else max)(valid, key=lambda one: one[metric])
    test = [one for one in records if one["kind"] == "test"][-1:]
    return {"steps": valid[-1]["step"], "best": best, "test": test[0] if test else {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args()
    chosen = load_config(options.config)
    metric = chosen.train.best_metric
    print(f"| values | steps | validation BLEU | chrF2 | loss | test BLEU | chrF2 |\n|{' --- |' * 7}")
    for name, changes in neighbours(chosen):
        if options.only and name not in options.only:
            continue
        run, config = options.output / name, load_config(options.config, changes)
        found = result(run, metric)
        is_done = found.get("steps", 0) >= config.train.max_steps
        is_done &= bool(changes or found.get("test") or not config.data.test)
        if not options.show and not is_done:
            # The test text is looked at by what was chosen only.
            all_changes = [*changes, "data.test=[]"] if changes else changes
            sets = [word for change in all_changes for word in ("--set", change)]
            command = [
                sys.executable,
                "-m",
                "transformer_mt",
                "train",
                str(options.config),
                "--output",
                str(run),
                "--resume",
            ]
            subprocess.run([*command, *sets], check=True)
            found = result(run, metric)
        what = f"{name}: {', '.join(changes)}" if changes else name
        if not found:
            print(f"| {what} | not trained | | | | | |", flush=True)
            continue
        best, test = found["best"], found["test"]
        shown = [(best, "bleu"), (best, "chrf"), (best, "loss"), (test, "bleu"), (test, "chrf")]
        if config.tokenizer != chosen.tokenizer:
            shown[2] = ({}, "loss")  # that of a piece: not to be compared where pieces are others
        scores = [f"{of[key]:.2f}" if key in of else "" for of, key in shown]
        print(f"| {what} | {found['steps']:,} | {' | '.join(scores)} |", flush=True)


if __name__ == "__main__":
    main()

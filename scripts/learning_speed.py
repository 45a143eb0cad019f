"""BLEU against minutes: recipes side by side on one machine, in turns, from raw text to the scored test text.

    python scripts/learning_speed.py new=configs/multi30k_en_de.yaml old=old.yaml --repeats 3 --output runs/speed
    … --hf ~/.cache/tmt_peers/hf/bin/python     # Hugging Face's Marian as well (scripts/peers/learn_hf.py)

The first configuration's text is everybody's. Repeat r has seed r. The clock runs from the start of a process:
tokenizer, preparation and validations are in it. What has ended is not done again; a run that was stopped begins anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.config.loading import load_config
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.system.lines import write_lines

_MINUTES = (2, 5, 10, 15, 20, 30, 45, 60, 90, 120)


def timed(command: Sequence[object], records: Path, log: Path) -> list[dict[str, Any]]:
    """Run a command and return the scores that it appends to a file of JSON lines, each with the minutes until then."""
    found: list[dict[str, Any]] = []
    started = time.monotonic()
    with log.open("wb") as out, subprocess.Popen([*map(str, command)], stdout=out, stderr=subprocess.STDOUT) as process:
        is_running = True
        while is_running:
            is_running = process.poll() is None
            minutes = (time.monotonic() - started) / 60
            lines = records.read_text(encoding="utf-8").split("\n")[:-1] if records.exists() else []
            scores = [
                one for line in lines if line.startswith("{") and (one := json.loads(line))["kind"] in ("valid", "test")
            ]
            found += [{**one, "minutes": minutes} for one in scores[len(found) :]]
            time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit(f"status {process.returncode}: {log}")
    return found


def write_text(data: DataConfig, directory: Path) -> None:
    """Write what others read, one file a side: all pairs, as those who clean nothing have them."""
    directory.mkdir(parents=True, exist_ok=True)
    for part in ("train", "valid", "test"):
        pairs = [pair for source in getattr(data, part) for pair in read_pairs(source, *data.languages(source))]
        for side, texts in zip(("src", "tgt"), zip(*pairs, strict=True), strict=True):
            write_lines(directory / f"{part}.{side}", texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", help="NAME=CONFIG, the first of which says on which text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hf", help="Python of an environment with transformers")
    parser.add_argument("--hf-options", default="--steps 6000 --eval-steps 500", help="of scripts/peers/learn_hf.py")
    parser.add_argument("--target", type=float, default=39.07, help="BLEU of validation text whose minutes are wanted")
    options = parser.parse_args()
    recipes = dict(recipe.split("=", 1) for recipe in options.recipes)
    text = options.output / "text"
    if options.hf:
        write_text(load_config(Path(next(iter(recipes.values())))).data, text)
    results: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in range(1, options.repeats + 1):
        for name in [*recipes, *(["hf"] if options.hf else [])]:
            place = options.output / f"{name}_{seed}"
            done = place / "scores.json"
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                log = place / "log"
                if name == "hf":
                    peer = Path(__file__).parent / "peers" / "learn_hf.py"
                    command = [options.hf, peer, "--data", text, "--seed", seed, *options.hf_options.split()]
                    found = timed(command, log, log)
                else:
                    settings = [f"train.seed={seed}", f"data.cache_dir={place / 'cache'}"]
                    sets = [word for one in settings for word in ("--set", one)]
                    tmt = [sys.executable, "-m", "transformer_mt"]
                    command = [*tmt, "train", recipes[name], "--output", place / "run", *sets]
                    found = timed(command, place / "run" / "metrics.jsonl", log)
                done.write_text(json.dumps(found, indent=1), encoding="utf-8")
            results.setdefault(name, []).append(json.loads(done.read_text(encoding="utf-8")))
    print_tables(results, options.target)


def print_tables(results: dict[str, list[list[dict[str, Any]]]], target: float) -> None:
    """Medians over the repeats: the best validation so far after some minutes; when the target is reached; the test."""
    minutes = [one for one in _MINUTES if any(run[-1]["minutes"] >= one for runs in results.values() for run in runs)]
    print(f"| validation BLEU after minutes | {' | '.join(map(str, minutes))} | {target:g} after |")
    print(f"|{' --- |' * (len(minutes) + 2)}")
    for name, runs in results.items():
        cells = []
        for limit in minutes:
            best = [max((one["bleu"] for one in valid(run) if one["minutes"] <= limit), default=0.0) for run in runs]
            cells.append(f"{statistics.median(best):.1f}")
        reached = [next((one["minutes"] for one in valid(run) if one["bleu"] >= target), float("inf")) for run in runs]
        median = statistics.median(reached)
        cells.append("never" if median == float("inf") else f"{median:.1f} min")
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| test text | BLEU | chrF2 | minutes in all |\n| --- | --- | --- | --- |")
    for name, runs in results.items():
        tests = [one for run in runs for one in run if one["kind"] == "test"]
        if tests:
            bleu, chrf, whole = (sorted(one[key] for one in tests) for key in ("bleu", "chrf", "minutes"))
            shown = [f"{statistics.median(one):.2f} ({one[0]:.2f}–{one[-1]:.2f})" for one in (bleu, chrf)]
            print(f"| {name} | {' | '.join(shown)} | {statistics.median(whole):.1f} ({whole[0]:.1f}–{whole[-1]:.1f}) |")


def valid(run: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in run if one["kind"] == "valid"]


if __name__ == "__main__":
    main()

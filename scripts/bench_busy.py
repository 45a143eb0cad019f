"""Training beside busy neighbours: how fast `tmt train` is while other processes take processor time, with the
GOMP_SPINCOUNT that the package sets and with OpenMP's own.

The preset `tiny` trains on the built-in corpus, with and without in turn and in changing order. Prints one JSON line
for each number of neighbours: the medians, and the ratio of each pair of neighbouring runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What each run sets; OpenMP's own is libgomp's count where nothing is set (its env.c).
SPIN_COUNTS = {"ours": "5000", "openmp": "300000"}


def configuration(work: Path, num_steps: int, precision: str) -> dict[str, Any]:
    """Nothing but training. Two reports: the first is of the updates that warm up."""
    return {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": [{"builtin": "grammar", "split": "train", "num_pairs": 5000}],
            "cache_dir": f"{work}/cache",
        },
        "tokenizer": {"vocab_size": 2000},
        "model": {"preset": "tiny"},
        "batch": {"max_tokens": 2048},
        "optim": {"warmup_steps": num_steps},
        "train": {
            "max_steps": 2 * num_steps,
            "checkpoint_steps": 2 * num_steps,
            "log_steps": num_steps,
            "precision": precision,
        },
    }


@contextlib.contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many processes that compute until the block ends, or this process, however it does."""
    program = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(subprocess.Popen([sys.executable, "-c", program]) for _ in range(number))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def tokens_per_second(config: Path, spin_count: str) -> float:
    """Target tokens of a run's second half, which has warmed up."""
    # As many threads as by default: with one of them nobody waits for another.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment["GOMP_SPINCOUNT"] = spin_count
    with tempfile.TemporaryDirectory(dir=config.parent) as directory:
        run = Path(directory) / "run"
        command = [sys.executable, "-m", "transformer_mt", "train", str(config), "--output", str(run)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: failed: {done.stderr}")
        last = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of neighbours")
    parser.add_argument("--steps", type=int, default=60, help="updates that are measured, after as many to warm up")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs for each number of neighbours")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        tree = configuration(Path(directory), args.steps, args.precision)
        config.write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
        tokens_per_second(config, SPIN_COUNTS["ours"])  # prepares the corpus, for all that follow
        for number in args.busy:
            rates: dict[str, list[float]] = {name: [] for name in SPIN_COUNTS}
            with neighbours(number):
                for repeat in range(args.repeats):
                    for name in sorted(SPIN_COUNTS, reverse=repeat % 2 == 1):
                        rates[name].append(tokens_per_second(config, SPIN_COUNTS[name]))
            ratios = [ours / openmp for ours, openmp in zip(rates["ours"], rates["openmp"], strict=True)]
            result = {
                "busy": number,
                "cores": os.cpu_count(),
                "ours_tokens_per_second": round(statistics.median(rates["ours"]), 1),
                "openmp_tokens_per_second": round(statistics.median(rates["openmp"]), 1),
                "ratio": round(statistics.median(ratios), 2),
                "ratios": [round(ratio, 2) for ratio in ratios],
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""Training speed on a CPU, ours and that of other toolkits: runs them in turn and writes a table of ratios.

scripts/bench_peers.sh installs the toolkits and then calls this. What is measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

SCRIPTS = Path(__file__).parent
PEERS_DIR = Path(os.environ.get("PEERS_DIR", "~/.cache/tmt_peers")).expanduser()
THREADS = 2
WARMUP = {"tiny": 50, "base": 5}  # updates left out
STEPS = {"tiny": 30, "base": 5}  # updates measured; one of base takes many seconds

# What a user can raise without changing a program. An unlimited mmap threshold is spelled "no mmap at all": older
# glibcs refuse thresholds above 32 MiB, and the logits of an update have 160.
ALLOCATORS = {
    "as installed": {},
    "tuned": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 << 30)},
    "its own": {},  # we set ours from inside
}
# Whatever of these is set outside would change what is measured.
SETTINGS = ("OMP_", "KMP_", "MKL_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")

FAIRSEQ_OVER_HF = 1.21  # fairseq has no installable release; measured elsewhere, on tiny in float32


class Case(NamedTuple):
    system: str
    model: str
    precision: str
    allocator: str
    repeats: int  # at most: what is slow, or beside the point, is run less often


CASES = [
    Case("tmt", "tiny", "auto", "its own", 3),
    Case("tmt", "tiny", "float32", "its own", 3),
    Case("hf", "tiny", "float32", "tuned", 3),
    Case("hf", "tiny", "bfloat16", "tuned", 3),
    Case("eole", "tiny", "float32", "tuned", 3),
    Case("sockeye", "tiny", "float32", "tuned", 3),
    Case("joeynmt", "tiny", "float32", "tuned", 1),
    Case("hf", "tiny", "float32", "as installed", 1),
    Case("hf", "tiny", "bfloat16", "as installed", 1),
    Case("eole", "tiny", "float32", "as installed", 1),
    Case("sockeye", "tiny", "float32", "as installed", 1),
    Case("joeynmt", "tiny", "float32", "as installed", 1),
    Case("tmt", "base", "auto", "its own", 2),
    Case("tmt", "base", "float32", "its own", 2),
    Case("hf", "base", "float32", "tuned", 2),
    Case("hf", "base", "bfloat16", "tuned", 2),
    Case("eole", "base", "float32", "tuned", 2),
    Case("eole", "base", "bfloat16", "tuned", 2),
    Case("joeynmt", "base", "float32", "tuned", 1),
    Case("hf", "base", "float32", "as installed", 1),
    Case("hf", "base", "bfloat16", "as installed", 1),
    Case("eole", "base", "float32", "as installed", 1),
    Case("eole", "base", "bfloat16", "as installed", 1),
]


def prepare(data: Path) -> None:
    """One segmentation for everybody: our joint tokenizer, the pieces of Multi30k, and the list of pieces."""
    if (data / "vocab.txt").exists():
        return
    source = Path(os.environ.get("TMT_DATA", "data")) / "multi30k"
    if not (source / "train.en.gz").exists():
        sys.exit(f"{source}: no train.en.gz; export TMT_DATA=FOLDER with multi30k/{{train,val}}.{{en,de}}.gz in it")
    data.mkdir(parents=True, exist_ok=True)
    tmt = [sys.executable, "-m", "transformer_mt", "tokenizer"]
    raw = [data / f"raw.{lang}.gz" for lang in ("en", "de")]
    for path in raw:
        shutil.copyfile(source / path.name.replace("raw", "train"), path)
    inputs = [text for path in raw for text in ("--input", str(path))]
    model = str(data / "tok.model")
    subprocess.run([*tmt, "train", *inputs, "--vocab-size", "10000", "--output", model], check=True)
    # The peers want some validation text, and none of them gets as far as using it.
    for split, ours, num_lines in (("train", "train", None), ("val", "valid", 100)):
        for lang in ("en", "de"):
            with gzip.open(source / f"{split}.{lang}.gz") as file:
                text = b"".join(file.readlines()[:num_lines])
            with open(data / f"{ours}.{lang}", "wb") as file:
                subprocess.run([*tmt, "encode", "--model", model], input=text, stdout=file, check=True)
    from transformer_mt.text.tokenizer import load_tokenizer

    pieces = "".join(f"{piece}\n" for piece in load_tokenizer(model).table)
    (data / "vocab.txt").write_text(pieces, encoding="utf-8")


def measure(case: Case, warmup: int, steps: int) -> dict[str, Any]:
    """Train once in a process of its own; the result, or what went wrong."""
    if case.system == "tmt":
        command = [sys.executable, str(SCRIPTS / "bench_train.py")]
    else:
        command = [str(PEERS_DIR / case.system / "bin/python"), str(SCRIPTS / f"peers/run_{case.system}.py")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    environment |= ALLOCATORS[case.allocator] | {"OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(prefix="bench_") as work, tempfile.TemporaryFile("w+") as log:
        command += [case.model, case.precision, "--data", str(PEERS_DIR / "data"), "--work", work]
        command += ["--warmup", str(warmup), "--steps", str(steps)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status or not said:
            log.seek(0)
            return {**case._asdict(), "error": (log.read().strip().splitlines() or ["no output"])[-1]}
    # Ours has measured the process that trains already.
    result: dict[str, Any] = {"allocator": case.allocator, "peak_rss_gib": round(usage.ru_maxrss / 2**20, 2)}
    result.update(json.loads(said))
    return result


Key = tuple[str, str, str, str]  # model, system, precision, allocator


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: of each configuration the median and range, and the ratio to the fastest peer of the same round."""
    speeds: dict[Key, dict[int, float]] = {}  # round -> target tokens per second
    runs: dict[Key, list[dict[str, Any]]] = {}
    for result in results:
        if "error" in result:
            continue
        speed = result["target_tokens_per_second"]
        key = (result["model"], f"{result['system']} {result['version']}", result["precision"], result["allocator"])
        speeds.setdefault(key, {})[result["round"]] = speed
        runs.setdefault(key, []).append(result)
        if result["system"] == "HF Marian" and key[0] == "tiny" and key[2:] == ("float32", "tuned"):
            estimate = ("tiny", f"fairseq (estimated: HF × {FAIRSEQ_OVER_HF})", *key[2:])
            speeds.setdefault(estimate, {})[result["round"]] = speed * FAIRSEQ_OVER_HF

    lines = []
    for model in WARMUP:
        rows = sorted((key for key in speeds if key[0] == model), key=lambda key: -_median(speeds[key]))
        peers = [key for key in rows if not key[1].startswith("tmt ")]
        if not rows:
            continue
        lines += [
            f"### {model}",
            "",
            "| system | precision | allocator | target tokens/s: median (range) | runs | step, s | peak GiB "
            "| ÷ fastest peer of its precision | ÷ fastest peer |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for key in rows:
            _, system, precision, allocator = key
            values = list(speeds[key].values())
            same = next((peer for peer in peers if peer[2] == precision), None)
            step, peak = "", ""
            if key in runs:
                step = f"{statistics.median(run['median_step_seconds'] for run in runs[key]):.2f}"
                peak = f"{max(run['peak_rss_gib'] for run in runs[key]):.2f}"
            cells = [
                system,
                precision,
                allocator,
                f"{_median(speeds[key]):,.0f} ({min(values):,.0f}–{max(values):,.0f})",
                str(len(values)),
                step,
                peak,
                *(_ratio(speeds[key], speeds[peer]) if peer else "" for peer in (same, peers[0] if peers else None)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    errors = [f"- failed: {json.dumps(result)}" for result in results if "error" in result]
    return "\n".join(lines + errors) + "\n"


def _median(rounds: dict[int, float]) -> float:
    return statistics.median(rounds.values())


def _ratio(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """Median and range of the ratios within a round, which a slow spell of the machine leaves alone."""
    ratios = [ours[number] / theirs[number] for number in ours if number in theirs]
    if not ratios:
        return ""
    text = f"{statistics.median(ratios):.2f}"
    return text if len(ratios) == 1 else f"{text} ({min(ratios):.2f}–{max(ratios):.2f})"


def main() -> None:
    systems = list(dict.fromkeys(case.system for case in CASES))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(systems), help=f"systems, of {','.join(systems)}")
    parser.add_argument("--models", default=",".join(WARMUP), help=f"shapes, of {','.join(WARMUP)}")
    parser.add_argument("--repeats", type=int, default=3, help="rounds at most; slow configurations have fewer")
    parser.add_argument("--steps", type=int, help=f"updates measured in a run, instead of {STEPS}")
    parser.add_argument("--quick", action="store_true", help="two updates of each, once: does everything run?")
    parser.add_argument("--output", type=Path, default=PEERS_DIR / "results", help="OUTPUT.jsonl and OUTPUT.md")
    args = parser.parse_args()
    prepare(PEERS_DIR / "data")

    chosen = [case for case in CASES if case.system in args.only.split(",") and case.model in args.models.split(",")]
    if not chosen:
        parser.error(f"nothing to run with --only {args.only} --models {args.models}")
    results: list[dict[str, Any]] = []
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with open(args.output.with_suffix(".jsonl"), "w", encoding="utf-8") as file:
        for number in range(1 if args.quick else args.repeats):
            for case in chosen:
                if number >= case.repeats:
                    continue
                warmup, steps = (1, 2) if args.quick else (WARMUP[case.model], args.steps or STEPS[case.model])
                started = time.monotonic()
                result = {"round": number} | measure(case, warmup, steps)
                results.append(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
                print(f"{time.monotonic() - started:.0f} s: {json.dumps(result)}", file=sys.stderr, flush=True)
                args.output.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results), end="")
    sys.exit(any("error" in result for result in results))


if __name__ == "__main__":
    main()

"""Makes everything in this folder, with version 0.1.0 (its sources are commit a38d57c):

    git worktree add /tmp/0.1.0 a38d57c
    OMP_NUM_THREADS=1 PYTHONPATH=/tmp/0.1.0 python tests/golden/make.py

`text/` is made up here: a word of German is the English one in capitals, French has the words in reverse order, and
sentences of the law end in §. `run/` is a run with two target languages and a domain, `averaged/` a model without
tags whose vocabularies are separate. `expected/` is what 0.1.0 made of them.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformer_mt

HERE = Path(__file__).parent
STEPS = 600
WORDS = ["ba", "ko", "mi", "sel", "tor", "una", "dem", "fi", "gar", "hul"]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 7))) for _ in range(count)]


def write_text(folder: Path) -> None:
    folder.mkdir()
    parts = {"de": (60, 1), "fr": (60, 2), "law": (60, 3), "valid": (10, 4), "test": (20, 5)}
    for name, (count, seed) in parts.items():
        src = sentences(count, seed)
        ends = " §" if name == "law" else ""
        tgt = [" ".join(reversed(line.split())) if name == "fr" else line.upper() + ends for line in src]
        for side, lines in ("src", src), ("tgt", tgt):
            (folder / f"{name}.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def config(train: list[dict[str, str]], vocab_size: int, shared: bool) -> dict[str, Any]:
    return {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": train,
            "valid": [{"src": "text/valid.src", "tgt": "text/valid.tgt"}],
            "cache_dir": "cache",
        },
        # nmt_nfkc, the default, alone takes 240 kB.
        "tokenizer": {"vocab_size": vocab_size, "shared": shared, "byte_fallback": shared, "normalization": "identity"},
        "model": {
            **{"preset": "tiny", "d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1},
            **{"num_decoder_layers": 1, "dropout": 0.05, "tie_embeddings": "all" if shared else "target"},
        },
        "batch": {"max_tokens": 256},
        "optim": {"schedule": "inverse_sqrt", "lr": 0.01, "warmup_steps": 100},
        "train": {
            **{"max_steps": STEPS, "eval_steps": STEPS // 3, "checkpoint_steps": STEPS // 3, "log_steps": STEPS // 3},
            **{"keep_checkpoints": 3, "precision": "float32"},
        },
        "search": {"min_tokens": 4},  # else so small a model takes "" for the best translation
    }


def pair(name: str, **keys: str) -> dict[str, str]:
    return {"src": f"text/{name}.src", "tgt": f"text/{name}.tgt", **keys}


def tmt(place: Path, *arguments: str, stdin: Path | None = None) -> bytes:
    command = [sys.executable, "-m", "transformer_mt", *arguments]
    with open(stdin or "/dev/null", "rb") as file:
        return subprocess.run(command, cwd=place, stdin=file, stdout=subprocess.PIPE, check=True).stdout


def main() -> None:
    assert transformer_mt.__version__ == "0.1.0", transformer_mt.__version__
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_text(place / "text")
        tagged = config([pair("de"), pair("fr", tgt_lang="fr"), pair("law", tag="law")], 320, shared=True)
        tagged["train"]["keep_checkpoints"] = 1
        for run, settings in ("run", tagged), ("plain", config([pair("de")], 40, shared=False)):
            (place / f"{run}.json").write_text(json.dumps(settings, indent=1) + "\n")
            tmt(place, "train", f"{run}.json", "--output", run)
        tmt(place, "average", "plain", "--output", "averaged")

        expected = place / "expected"
        expected.mkdir()
        last = f"run/checkpoints/step_{STEPS:08d}"
        lines, reference = place / "text/test.src", "text/test.tgt"
        for output, arguments in {
            "de.jsonl": ["translate", last, "--json"],
            "fr.jsonl": ["translate", last, "--json", "--tgt-lang", "fr"],
            "law.jsonl": ["translate", last, "--json", "--set", "search.tag=law"],
            "greedy.txt": ["translate", last, "--beam-size", "1"],
            "n_best.txt": ["translate", last, "--n-best", "3"],
            "scores.txt": ["score", last, "--src", "text/test.src", "--tgt", reference],
            "averaged.jsonl": ["translate", "averaged", "--json"],
            "averaged_scores.txt": ["score", "averaged", "--src", "text/test.src", "--tgt", reference],
        }.items():
            (expected / output).write_bytes(tmt(place, *arguments, stdin=lines))

        kept = ["text", "run.json", "run", "averaged", "expected"]
        for one in kept[:-1]:
            copied(place / one)
        # Two updates more, of another copy: what is kept is the run before them.
        more = ["--set", f"train.max_steps={STEPS + 2}", "--set", "train.log_steps=1"]
        tmt(place, "train", "run.json", "--output", "run", "--resume", *more)
        records = (place / "run/metrics.jsonl").read_text().splitlines(keepends=True)
        (expected / "continued.jsonl").write_text("".join(one for one in records if json.loads(one)["step"] > STEPS))
        copied(expected)


def copied(path: Path) -> None:
    target = HERE / path.name
    if path.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)
    else:
        shutil.copy(path, target)


if __name__ == "__main__":
    main()

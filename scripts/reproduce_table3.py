"""Table 3 of the paper in small: rows (A) to (E) as variations of one model that trains in minutes on one core.

    scripts/reproduce_table3.sh              all of it, seed by seed
    scripts/reproduce_table3.sh --report     the table of what is trained already

All trainings share text, tokenizer, number and size of updates, learning rate and its warm-up: what a row changes is
all that differs. As in the paper, scores are of the validation text, by beam search, without averaging. Perplexity is
that of the likelihood without label smoothing, so that rows with another ε can be compared. What was ended goes on
where it was saved, and what is done is not done again.

Noise is the standard deviation between seeds, pooled over the rows. A difference to base is bold where it is more than
twice the standard error that this gives it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer_mt.checkpoints.run_records import FILE_NAME, Record, read_records
from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config, TokenizerConfig
from transformer_mt.errors import TmtError
from transformer_mt.model.transformer import Transformer, count_parameters
from transformer_mt.system.console import tell
from transformer_mt.system.lines import read_lines
from transformer_mt.system.whole_files import replaced_file
from transformer_mt.text.tokenizer import load_tokenizer
from transformer_mt.text.tokenizer_training import train_tokenizer
from transformer_mt.training.loop import train

METRICS = ("perplexity", "bleu")
WARMUP_STEPS, CHECKPOINT_STEPS = 100, 300


class Row(NamedTuple):
    """A row: what it changes of base, and the paper's row that it stands for, with perplexity and BLEU there."""

    name: str
    changes: dict[str, Any]
    paper: str
    paper_scores: tuple[float, float]


def _layers(number: int) -> dict[str, int]:
    return {"num_encoder_layers": number, "num_decoder_layers": number}


SMOOTHING = "label_smoothing"  # the one change that is none of the model
ROWS = {
    "base": Row("base: N 2, d_model 64, d_ff 256, h 4, P_drop 0.1, ε_ls 0.1", {}, "base", (4.92, 25.8)),
    "h1": Row("(A) h 1, d_k = d_v = 64", {"num_heads": 1}, "h 1", (5.29, 24.9)),
    "h2": Row("(A) h 2, d_k = d_v = 32", {"num_heads": 2}, "h 4", (5.00, 25.5)),
    "h8": Row("(A) h 8, d_k = d_v = 8", {"num_heads": 8}, "h 16", (4.91, 25.8)),
    "h16": Row("(A) h 16, d_k = d_v = 4", {"num_heads": 16}, "h 32", (5.01, 25.4)),
    "k4": Row("(B) d_k 4", {"d_k": 4}, "d_k 16", (5.16, 25.1)),
    "k8": Row("(B) d_k 8", {"d_k": 8}, "d_k 32", (5.01, 25.4)),
    "N1": Row("(C) N 1", _layers(1), "N 2", (6.11, 23.7)),
    "N4": Row("(C) N 4", _layers(4), "N 8", (4.88, 25.5)),
    "d32": Row("(C) d_model 32, d_k = d_v = 8", {"d_model": 32}, "d_model 256", (5.75, 24.5)),
    "d128": Row("(C) d_model 128, d_k = d_v = 32", {"d_model": 128}, "d_model 1024", (4.66, 26.0)),
    "ff128": Row("(C) d_ff 128", {"d_ff": 128}, "d_ff 1024", (5.12, 25.4)),
    "ff512": Row("(C) d_ff 512", {"d_ff": 512}, "d_ff 4096", (4.75, 26.2)),
    "drop0": Row("(D) P_drop 0", {"dropout": 0.0}, "P_drop 0", (5.77, 24.6)),
    "drop2": Row("(D) P_drop 0.2", {"dropout": 0.2}, "P_drop 0.2", (4.95, 25.5)),
    "ls0": Row("(D) ε_ls 0", {SMOOTHING: 0.0}, "ε_ls 0", (4.67, 25.3)),
    "ls2": Row("(D) ε_ls 0.2", {SMOOTHING: 0.2}, "ε_ls 0.2", (5.47, 25.7)),
    "learned": Row("(E) learned positions", {"positions": "learned"}, "learned", (4.92, 25.7)),
}


def configuration(key: str, seed: int, args: argparse.Namespace) -> Config:
    """Return the configuration of one training."""
    changes = ROWS[key].changes
    shape = {"d_model": 64, "d_ff": 256, "num_heads": 4, "dropout": 0.1, "max_positions": 128} | _layers(2)
    steps = args.steps
    tree: dict[str, Any] = {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            **{part: [{side: path(args.data, part, side) for side in ("src", "tgt")}] for part in ("train", "valid")},
            "clean": {"max_src_tokens": 100, "max_tgt_tokens": 100},
            "cache_dir": str(args.output / "cache"),
        },
        "tokenizer": {"model": str(args.output / "tokenizer.model")},
        "model": shape | {name: value for name, value in changes.items() if name != SMOOTHING},
        "batch": {"max_tokens": 512},
        "optim": {"schedule": "cosine", "lr": 0.003, "warmup_steps": min(WARMUP_STEPS, steps), "clip_norm": 1.0},
        "train": {
            "max_steps": steps,
            "eval_steps": steps,
            "checkpoint_steps": CHECKPOINT_STEPS,
            "keep_checkpoints": 1,
            SMOOTHING: changes.get(SMOOTHING, 0.1),
            "seed": seed,
            "precision": "float32",
            "threads": 1,
        },
        "eval": {"metrics": ["bleu"], "beam_size": 4},  # and α = 0.6, as in section 6.1
    }
    return validate(tree, key)


def path(data: Path, part: str, side: str) -> str:
    return str(data / f"{part}.{'en' if side == 'src' else 'de'}.gz")


def final_record(run: Path, steps: int) -> Record | None:
    """Return the scores at the end of a training, or None where it has not come so far."""
    if not (run / FILE_NAME).exists():
        return None
    records = read_records(run / FILE_NAME)
    return next((one for one in records if one["kind"] == "valid" and one["step"] == steps), None)


def train_all(args: argparse.Namespace) -> None:
    """Train what is not trained yet: each row with the first seed, then with the next; then base with further ones."""
    tokenizer = args.output / "tokenizer.model"
    if not tokenizer.exists():
        args.output.mkdir(parents=True, exist_ok=True)
        sides = (path(args.data, "train", side) for side in ("src", "tgt"))
        lines = (line for side in sides for line in read_lines(side))
        trained, report = train_tokenizer(lines, TokenizerConfig(vocab_size=args.vocab_size))
        with replaced_file(tokenizer) as file:
            file.write(trained.model)
        tell(report)
    plan = [(key, seed) for seed in range(1, args.seeds + 1) for key in args.rows]
    plan += [("base", seed) for seed in range(args.seeds + 1, args.base_seeds + 1)]
    for number, (key, seed) in enumerate(plan, 1):
        run = args.output / f"{key}_{seed}"
        if final_record(run, args.steps) is None:
            tell(f"training {number} of {len(plan)}: {ROWS[key].name}, seed {seed}")
            train(configuration(key, seed, args), run, resume=True)


def num_parameters(key: str, args: argparse.Namespace) -> int:
    vocab_size = load_tokenizer(args.output / "tokenizer.model").vocab_size
    return count_parameters(Transformer(configuration(key, 1, args).model, vocab_size, vocab_size))


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, or None where no group has two numbers."""
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups if len(group) > 1)
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    return math.sqrt(squares / freedom) if freedom else None


def difference(own: Sequence[float], base: Sequence[float], noise: float | None) -> str:
    """Return the difference of two means, bold where it is more than twice its standard error."""
    found = statistics.mean(own) - statistics.mean(base)
    text = f"{found:+.2f}"
    if noise is not None and abs(found) > 2 * noise * math.sqrt(1 / len(own) + 1 / len(base)):
        text = f"**{text}**"
    return text


def report(args: argparse.Namespace) -> str:
    """Return the table of what is trained, as Markdown: of each number the mean, and each seed's."""
    records: dict[str, list[Record]] = {}
    for key in ROWS:
        seeds = range(1, max(args.seeds, args.base_seeds) + 1)
        found = (final_record(args.output / f"{key}_{seed}", args.steps) for seed in seeds)
        if trained := [record for record in found if record is not None]:
            records[key] = trained
    if "base" not in records:
        return "base is not trained yet"
    scores = {key: {name: [one[name] for one in own] for name in METRICS} for key, own in records.items()}
    noise = {name: pooled_deviation([own[name] for own in scores.values()]) for name in METRICS}
    lines = [
        "| row | parameters | perplexity (each seed) | to base | BLEU (each seed) | to base | paper: row, to base |",
        "| --- | ---: | --- | ---: | --- | ---: | --- |",
    ]
    for key, own in scores.items():
        row = ROWS[key]
        cells = [row.name, f"{num_parameters(key, args):,}"]
        for name in METRICS:
            cells.append(f"{statistics.mean(own[name]):.2f} ({', '.join(f'{value:.2f}' for value in own[name])})")
            cells.append("" if key == "base" else difference(own[name], scores["base"][name], noise[name]))
        theirs = zip(row.paper_scores, ROWS["base"].paper_scores, (2, 1), strict=True)
        in_paper = ", ".join(f"{one - base:+.{digits}f}" for one, base, digits in theirs)
        cells.append("" if key == "base" else f"{row.paper}: {in_paper}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Noise (standard deviation between seeds): {shown(noise)}.", signature(records)]
    return "\n".join(lines)


def shown(noise: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'not known' if value is None else f'{value:.2f}'}" for name, value in noise.items())


def signature(records: Mapping[str, Sequence[Record]]) -> str:
    """Return how BLEU was computed, which is the same everywhere."""
    [found] = {one["signatures"]["bleu"] for own in records.values() for one in own}
    return f"BLEU|{found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.en.gz, valid.de.gz, …")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, their tokenizer and corpus")
    parser.add_argument("--report", action="store_true", help="only print the table of what is trained")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], help="which, and in which order")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--base-seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000, help="updates of each training")
    parser.add_argument("--vocab-size", type=int, default=2000)
    args = parser.parse_args()

    try:
        if not args.report:
            train_all(args)
        print(report(args))
    except TmtError as error:
        tell(f"reproduce_table3: {error}")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()

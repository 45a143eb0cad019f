"""Kill a training run with SIGKILL at random moments, resume it each time, and compare its end with a run left alone.

    python scripts/torture_resume.py --kills 100 [--ranks 2] [--subwords] [--seed 1] [--directory DIR]

All checkpoints (weights, optimizer, state) must be equal byte by byte, the values in metrics.jsonl too, times and
speeds apart. Each kill is a line on stdout: when, what the run was doing as far as its files show, and which step it
goes on from. Half of the kills wait for a checkpoint that is being written; of several ranks, half kill one only, and
the others must end when they are told so with SIGTERM, as torchrun does. A run that ends between two kills is compared
and another one started. Exit status 1: something differed, hung, or failed by itself.

Importing PyTorch takes seconds, so one process imports it, and each run is a fork of that: kills are spread over the
run itself, from reading the corpus to the last pointer written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The last bits depend on the number of threads, and in the children of a fork OpenMP must not have started any.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import transformer_mt.training.loop  # noqa: F401 (imported once, here, and not by each run)
from transformer_mt.cli import main as cli

LAST_STEP = 90
WITHOUT = ("tokens_per_second", "seconds")  # in metrics.jsonl
PATIENCE_SECONDS = 25.0  # with ranks that have lost another; torchrun has 30


def configuration(subwords: bool) -> dict[str, Any]:
    """A model of some thousand weights, with everything that a resumed run could get wrong.

    Epochs of about 60 updates, 2 or 3 micro-batches each; dropout everywhere; averaged weights; log records that begin
    before a checkpoint and end after it; validations that improve and others that do not, counted by `patience`. With
    ``subwords`` other pieces in each epoch (processes of their own write them, which makes each start slower).
    """

    def grammar(split: str, num_pairs: int) -> list[dict[str, Any]]:
        return [{"builtin": "grammar", "split": split, "num_pairs": num_pairs}]

    return {
        "data": {
            **{"src_lang": "en", "tgt_lang": "de", "cache_dir": "cache"},
            **{"train": grammar("train", 300), "valid": grammar("valid", 4)},
        },
        "tokenizer": {"vocab_size": 400, "bpe_dropout": 0.1 if subwords else 0.0},
        "model": {
            **{"preset": "tiny", "d_model": 16, "d_ff": 32, "num_heads": 2},
            **{"num_encoder_layers": 1, "num_decoder_layers": 1},
            **{"dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.1},
        },
        "batch": {"max_tokens": 160, "micro_tokens": 150},
        "optim": {"schedule": "inverse_sqrt", "lr": 0.01, "warmup_steps": 20},
        "train": {
            **{"max_steps": LAST_STEP, "eval_steps": 15, "checkpoint_steps": 4, "log_steps": 7},
            **{"keep_checkpoints": 3, "best_metric": "chrf", "patience": 50, "precision": "float32"},
            **{"ema_decay": 0.95},
        },
    }


class Run:
    """One run directory, started and killed any number of times."""

    def __init__(self, directory: Path, num_ranks: int, subwords: bool = False) -> None:
        self.directory, self.num_ranks, self.output = directory, num_ranks, directory / "run"
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(json.dumps(configuration(subwords)))
        self._ranks: list[int] = []

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sys.stdout.flush()
        self._ranks = [self._fork(rank, port) for rank in range(self.num_ranks)]

    def _fork(self, rank: int, port: int) -> int:
        """A rank of ``tmt train``, in the environment that torchrun makes."""
        if child := os.fork():
            return child
        status = 70
        try:
            os.setsid()  # Ctrl-C is for the process that kills
            os.chdir(self.directory)  # paths are relative to it, so that all configurations are the same
            if self.num_ranks > 1:
                numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.num_ranks, "MASTER_PORT": port}
                os.environ.update({key: str(value) for key, value in numbers.items()}, MASTER_ADDR="127.0.0.1")
            with open(f"stderr.{rank}", "wb") as log:
                os.dup2(log.fileno(), 2)
            sys.argv = ["tmt", "train", "config.yaml", "--output", "run", "--resume"]
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(status)

    def wait(self, seconds: float) -> bool:
        """Whether all ranks ended well by themselves in that time."""
        end = time.monotonic() + seconds
        while self._ranks and time.monotonic() < end:
            self._refuse_failed()
            time.sleep(0.001)
        return not self._ranks

    def wait_for_writing(self, seconds: float) -> bool:
        """Wait for a checkpoint that is being written, so many seconds; return whether the run ended well before."""
        end = time.monotonic() + seconds
        while self._ranks and time.monotonic() < end and not self.unfinished():
            self._refuse_failed()
            time.sleep(0.0005)
        return not self._ranks

    def _refuse_failed(self) -> None:
        """End with a rank that has ended by itself, and not well."""
        if any(self._reap()):
            self.kill()
            raise SystemExit(f"a rank failed by itself; see {self.directory}/stderr.*")

    def _reap(self) -> list[int]:
        """The exit statuses of ranks that have ended since the last call."""
        statuses = []
        for rank in list(self._ranks):
            pid, status = os.waitpid(rank, os.WNOHANG)
            if pid:
                self._ranks.remove(rank)
                statuses.append(status)
        return statuses

    def kill(self, only: int | None = None) -> None:
        """SIGKILL to all ranks; or to one of them and soon after SIGTERM to the others, which have to end."""
        victims = self._ranks if only is None or only >= len(self._ranks) else [self._ranks[only]]
        for rank in victims:
            os.kill(rank, signal.SIGKILL)
        if len(victims) < len(self._ranks):
            time.sleep(0.1)
            self._reap()
            for rank in self._ranks:
                os.kill(rank, signal.SIGTERM)
        end = time.monotonic() + PATIENCE_SECONDS
        while self._ranks:
            self._reap()
            if time.monotonic() > end:
                self.kill()
                raise SystemExit(f"ranks hang that have lost another; see {self.directory}/stderr.*")
            time.sleep(0.001)

    def unfinished(self) -> list[Path]:
        """What is there under hidden names: checkpoints being written or deleted, then other files."""
        return [*(self.output / "checkpoints").glob(".step_*"), *self.output.glob(".*.tmp")]

    def doing(self) -> str:
        """What the run was doing when it was killed, from what it has left half done."""
        for path in self.unfinished():
            name = path.name.split(".")[1]
            if path.is_dir():
                files = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
                return f"{'writing' if path.suffix == '.tmp' else 'deleting'} {name} (there: {files})"
            return f"writing {name}"
        if not self.records():
            return "starting"
        last = self.records()[-1]
        return f"after the {last['kind']} record of step {last['step']}"

    def newest_step(self) -> int:
        """The step of the newest complete checkpoint, 0 if there is none."""
        return max([0, *(int(path.name[5:]) for path in (self.output / "checkpoints").glob("step_*"))])

    def records(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl, without times."""
        path, found = self.output / "metrics.jsonl", []
        for line in path.read_text().split("\n")[:-1] if path.exists() else []:
            found.append({key: value for key, value in json.loads(line).items() if key not in WITHOUT})
        return found


def differences(run: Run, expected: Run) -> list[str]:
    """What is not the same in the ends of two runs."""
    found = [] if run.records() == expected.records() else ["metrics.jsonl"]
    files = [
        {str(path.relative_to(one.output)) for path in one.output.rglob("*") if path.is_file()}
        for one in (run, expected)
    ]
    for name in sorted(files[0] | files[1]):
        if name not in files[1]:
            found.append(f"{name}, which should not be there")
        elif name not in files[0]:
            found.append(f"{name}, which is missing")
        elif name != "metrics.jsonl" and (run.output / name).read_bytes() != (expected.output / name).read_bytes():
            found.append(name)
    return found


def is_same(run: Run, expected: Run) -> bool:
    found = differences(run, expected)
    for name in found:
        print(f"DIFFERENT: {run.output}: {name}")
    return not found


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill and resume a training run, and compare its end.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--subwords", action="store_true", help="with subword sampling")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="kept; default: a temporary one, deleted when all is well")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    place = args.directory or Path(tempfile.mkdtemp(prefix="torture_resume_"))

    def new_run(name: str) -> Run:
        return Run(place / name, args.ranks, args.subwords)

    reference = new_run("reference")
    began = time.monotonic()
    reference.start()
    reference.wait(math.inf)
    seconds = time.monotonic() - began
    print(f"reference: {LAST_STEP} steps in {seconds:.1f} s, {len(reference.records())} records, in {place}")

    run, number, kills, are_same = new_run("run1"), 1, 0, True
    while kills < args.kills:
        run.start()
        after, only = draw.uniform(0, 0.75 * seconds), draw.choice([None, draw.randrange(args.ranks)])
        is_while_writing = draw.random() < 0.5
        if run.wait(after) or (is_while_writing and run.wait_for_writing(seconds)):
            are_same &= is_same(run, reference)
            number += 1
            run = new_run(f"run{number}")
            continue
        if is_while_writing:
            time.sleep(draw.choice([0, draw.uniform(0, 0.01)]))  # writing takes some milliseconds
        run.kill(only if args.ranks > 1 else None)
        kills += 1
        whom = f"rank {only}, " if args.ranks > 1 and only is not None else ""
        doing, step = run.doing(), run.newest_step()
        print(f"kill {kills}: run {number}, {whom}{after:.2f} s after its start, {doing}; goes on from step {step}")
    run.start()
    run.wait(math.inf)
    are_same &= is_same(run, reference)
    print(f"{kills} kills in {number} runs: {'all the same' if are_same else 'DIFFERENT'}")
    if args.directory is None and are_same:
        shutil.rmtree(place)
    return 0 if are_same else 1


if __name__ == "__main__":
    raise SystemExit(main())

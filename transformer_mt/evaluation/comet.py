"""COMET (Rei et al. 2020) by its own command, which has its own environment: its needs and ours do not go together."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from transformer_mt.errors import InputError, RunError

COMMAND = "comet-score"
MODEL = "Unbabel/wmt22-comet-da"


def check_comet() -> str:
    """Return where the command is.

    Raises:
        InputError: it is not on PATH.
    """
    if (command := shutil.which(COMMAND)) is None:
        raise InputError(
            f"--comet: there is no command {COMMAND} on PATH; install it (pip install unbabel-comet, best in an "
            "environment of its own) and add its folder to PATH"
        )
    return command


def comet_score(sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return the score of a corpus, usually between 0 and 1, and what stands for its signature.

    At its first use the command downloads its model.

    Raises:
        InputError: as `check_comet`.
        RunError: the command fails, or says no score.
    """
    command = check_comet()
    with TemporaryDirectory() as directory:
        arguments = ["--model", MODEL, "--gpus", str(int(torch.cuda.is_available()))]
        for option, lines in (("-s", sources), ("-t", hypotheses), ("-r", references)):
            path = Path(directory, option[1:])
            # It takes a CR for the end of a line, too.
            path.write_text("".join(line.replace("\r", " ") + "\n" for line in lines), encoding="utf-8")
            arguments += [option, str(path)]
        done = subprocess.run([command, *arguments], capture_output=True, encoding="utf-8", errors="replace")
    scores = re.findall(r"\tscore: (-?[\d.]+)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not scores:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}, without a score"])[-1]
        raise RunError(f"{COMMAND}: failed ({reason[:300]}); try the command by itself")
    return float(scores[-1]), f"model:{MODEL}|nrefs:1"  # those of the sentences come before it

"""What training continues from besides tensors: ``state.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from transformer_mt.checkpoints.manifest import MOST_BYTES, STATE, unreadable
from transformer_mt.data.batching import Cursor
from transformer_mt.errors import InputError
from transformer_mt.system.whole_files import read_plain

CODE = "transformer_mt"  # of a state's environment: the code that trained last


@dataclass
class Sums:
    """Over the updates since the last log record; the next one shows their means."""

    loss: float = 0.0
    nll: float = 0.0
    norm: float = 0.0
    labels: int = 0
    steps: int = 0


@dataclass
class TrainState:
    """All that training continues from, weights and optimizer moments apart."""

    step: int = 0
    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    best_score: float | None = None
    best_step: int = 0
    best_loss: float | None = None  # on the validation text, of the best step: of equal scores it decides
    evals_without_improvement: int = 0
    since_report: Sums = dataclasses.field(default_factory=Sums)
    corpus: str = ""  # fingerprints of what the run was trained on
    tokenizer: str = ""
    validation: str = ""  # fingerprint of its pairs
    training_files: dict[str, str] = dataclasses.field(default_factory=dict)  # SHA-256 by path
    by_signal: bool = False  # such a checkpoint counts neither for averaging nor for retention
    awaits_validation: bool = False  # that of this step has failed, which ended the run
    environment: dict[str, str | int] = dataclasses.field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises: ValueError."""
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def read_state(directory: Path) -> TrainState:
    try:
        return TrainState.from_json(read_plain(directory / STATE, MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: not a checkpoint (no {STATE}); averaged models cannot be resumed") from None
    except OSError as error:
        raise unreadable(directory / STATE, error) from None
    except ValueError as error:
        raise InputError(f"{directory / STATE}: damaged ({error}); use another checkpoint") from None

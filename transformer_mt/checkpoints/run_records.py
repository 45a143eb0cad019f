"""The records of ``metrics.jsonl``: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformer_mt.errors import InputError
from transformer_mt.system.lines import read_lines

FILE_NAME = "metrics.jsonl"


Record = dict[str, Any]  # a line of metrics.jsonl: "kind", "step" and what there is to tell


def read_records(path: Path) -> list[Record]:
    """All records of a ``metrics.jsonl``, also while a run is writing it: a last line that is cut is left out.

    Raises:
        InputError: a line before the last that is no record.
    """
    lines = list(read_lines(path))
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not (isinstance(record["kind"], str) and type(record["step"]) is int):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            if number < len(lines):
                raise InputError(f"{path}, line {number}: is no record with a kind and a step; remove it") from None
        else:
            records.append(record)
    return records

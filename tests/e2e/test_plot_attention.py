"""``tmt plot attention`` of the model that version 0.1.0 has left: pictures, numbers, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import tmt_here

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "run" / "checkpoints" / "step_00000600"
SOURCE, TARGET = (
    (GOLDEN / path).read_text(encoding="utf-8").splitlines()[0] for path in ("text/test.src", "expected/greedy.txt")
)


def plot(*options: object, source: str = SOURCE) -> Any:
    return tmt_here("plot", "attention", CHECKPOINT, "--src", source, *options)


def numbers(*options: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plot("--json", *options).ok().stdout)
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", ()),
        ("a.svg", ("--use", "encoder", "--layer", "all", "--head", "all", "--style", "lines")),
        ("a.pdf", ("--use", "decoder", "--layer", "mean", "--head", "1", "--pieces", "--tgt", TARGET)),
    ],
)
def test_pictures(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    done = plot("--output", tmp_path / name, *options).ok()
    assert (done.stdout, done.stderr) == (b"", "")
    assert (tmp_path / name).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_numbers() -> None:
    words = numbers("--set", "search.beam_size=1")
    assert words == numbers("--tgt", TARGET)  # what it finds by itself, with these settings
    assert words["queries"] == [*TARGET.split(), "</s>"]
    assert words["keys"] == ["<2de>", *SOURCE.split(), "</s>"]
    pieces = numbers("--tgt", TARGET, "--pieces", "--layer", "all", "--head", "all")
    assert "".join(pieces["keys"][1:-1]).replace("▁", " ").split() == SOURCE.split()
    weights = np.array(pieces["weights"])
    assert weights.shape == tuple(len(pieces[side]) for side in ("layers", "heads", "queries", "keys"))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-4)


def test_another_target_language() -> None:
    assert numbers("--tgt-lang", "fr", "--use", "encoder")["keys"][0] == "<2fr>"


def test_refusals(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    for part, options, source in (
        ("--use: 'self' found; give encoder, decoder or cross", ("--output", picture, "--use", "self"), SOURCE),
        ("--style: 'bars' found; give table or lines", ("--output", picture, "--style", "bars"), SOURCE),
        ("give --output F.png or --json", (), SOURCE),
        ("an image ends in .png, .svg, .pdf", ("--output", tmp_path / "a.jpg"), SOURCE),
        ("source: no text", ("--output", picture), " "),
        ("target: no text", ("--output", picture, "--tgt", ""), SOURCE),
        ("search.max_source_tokens=", ("--output", picture), f"{SOURCE} " * 20),
        ("--layer 9: the model has", ("--output", picture, "--layer", 9), SOURCE),
    ):
        done = plot(*options, source=source)
        assert done.status == 2 and part in done.refusal
    exported = tmp_path / "exported"  # as `tmt export --format ctranslate2` leaves it
    exported.mkdir()
    for name in ("model.bin", "config.json", "shared_vocabulary.json"):
        (exported / name).write_bytes(b"{}")
    shutil.copy(CHECKPOINT / "tokenizer.model", exported)
    done = tmt_here("plot", "attention", exported, "--src", SOURCE, "--output", picture)
    assert done.status == 2 and str(exported) in done.refusal
    print(done.refusal)
    assert not picture.exists()

"""What version 0.1.0 has left (`tests/golden/make.py`): its models translate and score as they did there, and its run
goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness import last_checkpoint, metrics, text, tmt_here

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "run" / "checkpoints" / "step_00000600"
SCORE = 1e-4  # as far as scores and losses may differ: other processors add up in another order


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def translated(model: Path, *options: object) -> list[str]:
    return tmt_here("translate", model, *options, stdin=text(lines_of(GOLDEN / "text" / "test.src"))).ok().lines


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("de", CHECKPOINT, ()),
        ("fr", CHECKPOINT, ("--tgt-lang", "fr")),
        ("law", CHECKPOINT, ("--set", "search.tag=law")),
        ("averaged", GOLDEN / "averaged", ()),
    ],
)
def test_translations(name: str, model: Path, options: tuple[str, ...]) -> None:
    found = [json.loads(line) for line in translated(model, "--json", *options)]
    expected = [json.loads(line) for line in lines_of(GOLDEN / "expected" / f"{name}.jsonl")]
    assert len({one["text"] for one in expected}) > 10
    for one in (*found, *expected):
        for other in (one, *one.get("alternatives", [])):
            other["score"] = pytest.approx(other["score"], abs=SCORE)
            other.pop("log_probs", None)  # 0.1.0 wrote none
    assert found == expected


def test_greedy_search() -> None:
    assert translated(CHECKPOINT, "--beam-size", 1) == lines_of(GOLDEN / "expected" / "greedy.txt")


def test_n_best() -> None:
    found, expected = (
        [line.rpartition(" ||| ") for line in lines]
        for lines in (translated(CHECKPOINT, "--n-best", 3), lines_of(GOLDEN / "expected" / "n_best.txt"))
    )
    assert [words for words, _, _ in found] == [words for words, _, _ in expected]
    assert [float(score) for *_, score in found] == pytest.approx([float(score) for *_, score in expected], abs=SCORE)


@pytest.mark.parametrize(("name", "model"), [("scores", CHECKPOINT), ("averaged_scores", GOLDEN / "averaged")])
def test_scores(name: str, model: Path) -> None:
    sides = "--src", GOLDEN / "text" / "test.src", "--tgt", GOLDEN / "text" / "test.tgt"
    found = [float(line) for line in tmt_here("score", model, *sides).ok().lines]
    expected = [float(line) for line in lines_of(GOLDEN / "expected" / f"{name}.txt")]
    assert found == pytest.approx(expected, abs=SCORE)


def test_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text makes the same corpus, and two more updates have the losses that they have with 0.1.0."""
    for name in "run", "text":
        shutil.copytree(GOLDEN / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    more = "--set", "train.max_steps=602", "--set", "train.log_steps=1"
    done = tmt_here("train", GOLDEN / "run.json", "--output", "run", "--resume", *more).ok()
    assert "continuing from step 600" in done.stderr
    states = [json.loads((path / "state.json").read_text()) for path in (CHECKPOINT, last_checkpoint(Path("run")))]
    assert [state["step"] for state in states] == [600, 602]
    assert states[0]["corpus"] == states[1]["corpus"] and states[0]["tokenizer"] == states[1]["tokenizer"]
    found = [record for record in metrics(Path("run")) if record["step"] > 600]
    expected = [json.loads(line) for line in lines_of(GOLDEN / "expected" / "continued.jsonl")]
    assert [record["kind"] for record in expected] == ["train", "train", "valid"]
    for one, other in zip(found, expected, strict=True):
        numbers = other.keys() - {"kind", "signatures", "seconds", "tokens_per_second"}
        assert one["kind"] == other["kind"]
        assert [one[key] for key in numbers] == pytest.approx([other[key] for key in numbers], abs=SCORE)

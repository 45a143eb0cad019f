"""The tables of BLEU against minutes, by hand; and a command whose records are timed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from harness import load_script


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("learning_speed")


def run(*points: tuple[float, float], test: float) -> list[dict[str, Any]]:
    valid = [{"kind": "valid", "minutes": minutes, "bleu": bleu} for minutes, bleu in points]
    return [*valid, {"kind": "test", "minutes": points[-1][0] + 1, "bleu": test, "chrf": 60.0}]


def test_medians_of_the_best_so_far(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fast = [run((1, 10), (4, 30 + seed), (6, 29), test=31 + seed) for seed in (1, 2, 3)]
    slow = [run((4, 5), (10, 20), test=20) for _ in range(3)]
    slow[0][1]["bleu"] = 40
    script.print_tables({"fast": fast, "slow": slow}, target=32)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| validation BLEU after minutes | 2 | 5 | 10 | 32 after |"
    assert lines[2] == "| fast | 10.0 | 32.0 | 32.0 | 4.0 min |"
    assert lines[3] == "| slow | 0.0 | 5.0 | 20.0 | never |"
    assert lines[-2] == "| fast | 33.00 (32.00–34.00) | 60.00 (60.00–60.00) | 7.0 (7.0–7.0) |"


def test_each_score_gets_its_minutes(script: Any, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        'for line in (\'{"kind": "train"}\', \'{"kind": "valid", "bleu": 1}\', \'words\', \'{"kind": "test"}\'):\n'
        "    print(line, flush=True)\n"
        "    time.sleep(0.3)"
    )
    log = tmp_path / "log"
    found = script.timed([sys.executable, "-c", program], log, log)
    assert [one["kind"] for one in found] == ["valid", "test"]
    assert 0 < found[0]["minutes"] < found[1]["minutes"]
    with pytest.raises(SystemExit, match="status 3"):
        script.timed([sys.executable, "-c", "raise SystemExit(3)"], log, log)

"""Bad input ends in success or in one clear line (the script that tries ten thousand cases is run here for some), and
the script sees it where it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from harness import load_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"


def test_a_sample_has_no_findings() -> None:
    command = [sys.executable, str(SCRIPT), "--count", "70", "--seed", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    header, *rows, last = done.stdout.splitlines()
    assert header.split() == ["kind", "cases", "succeeded", "refused", "findings"]
    assert [row.split()[0] for row in rows] == [
        *("lines", "sources", "configs", "models", "stores", "runs", "requests")
    ]
    for cases, succeeded, refused, findings in ([int(number) for number in row.split()[1:]] for row in rows):
        assert (cases, findings) == (10, 0)
        assert succeeded > 0 and refused > 0, "it tries what cannot fail, or cannot succeed"
    assert re.fullmatch(r"70 cases with seed 6 in \d+ s", last)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"):
            patch.setenv(name, "1")  # as the script does for itself; undone afterwards
        return load_script("fuzz")


def bug() -> NoReturn:
    raise KeyError("text")


def refuse(message: str) -> Callable[[], NoReturn]:
    from transformer_mt.errors import InputError

    def reader() -> NoReturn:
        raise InputError(message)

    return reader


def say(*lines: str) -> Callable[[], NoReturn]:
    def reader() -> NoReturn:
        os.write(2, "".join(f"{line}\n" for line in lines).encode())
        raise SystemExit(2)

    return reader


def fail() -> NoReturn:
    from transformer_mt.errors import RunError

    raise RunError("a.txt: no")


def wait() -> None:
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("reader", "problem"),
    [
        (lambda: None, ""),
        (refuse("a.txt: no"), ""),
        (say("warning: b.txt is old", "tmt: a.txt: no"), ""),
        (bug, "KeyError: 'text' (test_fuzz.py:"),
        (fail, "status 1"),
        (wait, "a hang: "),
        (lambda: bytearray(1 << 40), "status 1"),  # out of memory is a line, but no refusal of input
        (os.abort, "the interpreter ended with status -6"),
        (refuse(""), "no reason in the last line"),
        (say("tmt: a", "b"), "no reason in the last line"),
        (say("what?", "tmt: a"), "more than one line: 'what?'"),
        (say("", "tmt: a"), "more than one line: ''"),
        (say("tmt: a", "tmt: b"), "more than one line: 'tmt: a'"),
        (say("tmt: a\u2028b"), "no reason in the last line"),
        (say("tmt: " + "x" * 3000), "a line of 3005 characters: tmt: xxx"),
        (say("Traceback (most recent call last):", "tmt: a"), "a traceback"),
    ],
)
def test_findings_are_seen(
    reader: Callable[[], object], problem: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case after it is judged by itself, whatever came of it."""
    results = judged(script, tmp_path, monkeypatch, script.Case("first", reader=reader))
    assert [result.number for result in results] == [0, 1]
    assert results[0].problem.startswith(problem) and bool(results[0].problem) == bool(problem)
    assert (results[1].status, results[1].problem) == (0, "")


@pytest.mark.parametrize(
    ("name", "reader", "problem"),
    [
        (".out.txt.7.tmp", lambda: None, "left behind: .out.txt.7.tmp"),
        ("out/.out.txt.7", refuse("no"), "left behind: .out.txt.7"),
        ("out/out.txt", refuse("no"), "output in spite of the refusal: ['out.txt']"),
        ("out/out.txt", lambda: None, ""),
    ],
)
def test_files_left_behind_are_seen(
    name: str,
    reader: Callable[[], object],
    problem: str,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leave() -> None:
        (tmp_path / "cases" / "0" / name).touch()
        reader()

    assert judged(script, tmp_path, monkeypatch, script.Case("first", reader=leave))[0].problem == problem


def test_unequal_line_counts_are_seen(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = script.Case("first", reader=lambda: print("a\nb"), num_lines=3)
    assert judged(script, tmp_path, monkeypatch, case)[0].problem == "2 lines for 3"


def judged(script: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, case: Any) -> list[Any]:
    """The results of a case and of a good one, both run as all are."""
    monkeypatch.setattr(script, "PATIENCE_SECONDS", 1)
    cases = {"lines": case, "sources": script.Case("second", reader=lambda: None)}
    monkeypatch.setattr(script, "KINDS", {name: lambda *_, one=one: one for name, one in cases.items()})
    return list(script.fuzz(script.Base(place), 1, [0, 1]))


def test_cases_depend_on_seed_and_number_alone(script: ModuleType) -> None:
    texts = [script.mutated(script.random.Random(f"1/{n}"), {"a": [1, {"b": 2}]}, ["7"]) for n in (5, 6, 5)]
    assert texts[0] == texts[2] != texts[1]


def test_mutations_change_one_place(script: ModuleType) -> None:
    """Each kind of change is made."""
    texts = {script.mutated(script.random.Random(n), {"ab": 1, "c": {"d": 2}}, ["7"]) for n in range(3000)}
    compact = {re.sub(r"\s", "", text) for text in texts}
    assert {
        '{"ab":7,"c":{"d":2}}',  # another value
        '{"c":{"d":2}}',  # removed
        '{"c":{"d":2},"abs":1}',  # renamed
        '{"ab":1,"c":{"d":2},"ab":1}',  # twice
        '{"ab":1,"c":{"d":2,"moved":1}}',  # moved (a copy)
        "7",  # all of it
    } <= compact

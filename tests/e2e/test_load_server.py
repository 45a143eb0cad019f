"""`scripts/load_server.py`: it counts what is wrong, and finds nothing wrong with `tmt serve`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, Trained, environment, load_script, tmt_here

pytest.importorskip("starlette")


def test_wrong_answers_are_counted() -> None:
    script = load_script("load_server")
    found, texts = script.Found(), script.Texts({"a": "A", "b": "B", "c": "B"}, "en", "de")
    for text, answer in (("a", "A"), ("a", "B"), ("b", "B"), ("c", "B"), ("c", "")):
        found.add(0.002, answer, texts, text)
    assert (found.mixed, found.other, len(found.seconds)) == (1, 1, 5)
    assert found.times() == {"p50_ms": 2, "p95_ms": 2, "p99_ms": 2}
    assert [texts.next()[0] for _ in range(5)] == ["a", "b", "c", "a", "b"]


def test_a_server_under_load(trained: Trained, sources: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    tmt_here("export", trained.run, "--format", "ctranslate2", "--output", tmp_path / "export").ok()
    (tmp_path / "texts").write_text("\n".join([*sources, "", sources[0]]) + "\n")
    options = "--texts texts --clients 1 6 --seconds 1 --set search.beam_size=2 --json found"
    command = [sys.executable, str(ROOT / "scripts" / "load_server.py"), "export", *options.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found").read_text())
    totals, phases = found["totals"], found["phases"]
    assert totals.pop("requests") == sum(one["requests"] for one in phases) > 0
    assert totals == {"lost": 0, "mixed": 0, "other": 0} and found["texts"] == len(set(sources))
    modes = ("batches", "one by one")
    assert [(one["mode"], one["clients"]) for one in phases] == [(mode, n) for n in (1, 6) for mode in modes]
    assert [one["batch_texts"] > 1 for one in phases] == [False, False, True, False]
    assert found["megabytes_before"].keys() == set(modes)
    assert all(phase["megabytes"] > 0 for phase in found["phases"])

"""The script of Table 3 in small: what is done is not done again, and what its table says of noise."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from harness import ROOT, environment, load_script

from transformer_mt.config.sections import Config
from transformer_mt.toy_corpus import grammar

SCRIPT = ROOT / "scripts" / "reproduce_table3.py"


@pytest.fixture
def script() -> ModuleType:
    return load_script("reproduce_table3")


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    for part, pairs in {"train": grammar.generate("train", 300), "valid": grammar.generate("valid", 4)}.items():
        for lang, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            with gzip.open(tmp_path / f"{part}.{lang}.gz", "wt", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
    return ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--vocab-size", "400", "--steps", "3"]


def test_rows_are_trained_once(
    options: list[str], script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*options, "--rows", "N1", "base", "--seeds", "1", "--base-seeds", "2"]
    command = [str(SCRIPT.with_suffix(".sh")), *arguments]
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env=environment() | {"PATH": path}, check=True)
    assert [line.partition(":")[0] for line in done.stderr.splitlines() if line.startswith("training ")][::2] == [
        f"training {number} of 3" for number in (1, 2, 3)
    ]
    table = done.stdout.splitlines()
    assert [line.split(" | ")[0] for line in table[2:4]] == [f"| {script.ROWS[key].name}" for key in ("base", "N1")]
    assert all(line.count("|") == 8 for line in table[:4])
    assert table[-1].startswith("BLEU|nrefs:1|")

    monkeypatch.setattr(script, "train", None)  # there is nothing left to train
    monkeypatch.setattr("sys.argv", ["reproduce_table3.py", *arguments])
    script.main()
    found = capsys.readouterr()
    assert (found.out.splitlines(), found.err) == (table, "")


def test_rows_differ_in_nothing_but_their_changes(script: ModuleType, tmp_path: Path) -> None:
    args = script.argparse.Namespace(data=tmp_path, output=tmp_path, steps=1000)

    def flat(config: Config) -> dict[str, object]:
        return {f"{part}.{key}": value for part, section in config for key, value in section}

    base = flat(script.configuration("base", 1, args))
    for key, row in script.ROWS.items():
        other = flat(script.configuration(key, 1, args))
        differing = {name.split(".")[1] for name in base if base[name] != other[name]}
        follows = {"d_k", "d_v"} if row.changes.keys() & {"num_heads", "d_model"} else set()  # d_model / h
        assert differing == row.changes.keys() | follows
        assert row.name == script.ROWS["base"].name or row.name.startswith("(")


def test_what_is_more_than_noise_is_bold(script: ModuleType) -> None:
    groups = [[1.0, 3.0], [10.0, 12.0], [5.0]]  # each of the first two has the variance 2, the last none
    noise = script.pooled_deviation(groups)
    assert noise == pytest.approx(math.sqrt(2))
    assert script.pooled_deviation([[1.0], [2.0]]) is None
    # Means of two and of four: a standard error of sqrt(2) · sqrt(1/2 + 1/4) = 1.2247
    base = [4.0, 4.0, 4.0, 4.0]
    assert script.difference([6.4, 6.4], base, noise) == "+2.40"
    assert script.difference([6.5, 6.5], base, noise) == "**+2.50**"
    assert script.difference([1.0, 2.0], base, noise) == "**-2.50**"
    assert script.difference([1.0, 2.0], base, None) == "-2.50"

"""The examples of docs/exchange.md, run one after the other in one folder, with a small model in place of the reader's.

What needs a program that the tests do not install is compared by a script before releases (docs/releasing.md).
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
from harness import ROOT, Trained, tmt_here

for package in ("ctranslate2", "onnx", "onnxruntime", "transformers"):
    pytest.importorskip(package)

PAGE = (ROOT / "docs" / "exchange.md").read_text(encoding="utf-8")
SCRIPT_OF = {"@huggingface/transformers": "check_transformers_js.mjs", "import argostranslate": "check_argos.py"}

PRE_NORM = ("--set", "model.norm=pre", "--set", "train.max_steps=60", "--set", "train.eval_steps=60")


def run_line(line: str) -> str:
    """Run a line of shell: commands of `tmt`, and `echo` before them."""
    out = b""
    for part in line.split("|"):
        name, *words = shlex.split(part)
        assert name in ("tmt", "echo"), f"{name}: the test knows no such command"
        out = f"{' '.join(words)}\n".encode() if name == "echo" else run_tmt(words, out)
    return out.decode()


def run_tmt(words: list[str], stdin: bytes) -> bytes:
    done = tmt_here(*words, stdin=stdin).ok()
    if "--output" in words:
        assert Path(words[words.index("--output") + 1]).exists()
    return done.stdout


def run_block(kind: str, code: str) -> str:
    """Run a block and return what it prints."""
    if kind == "sh":
        return "".join(map(run_line, code.splitlines()))
    assert kind == "python", f"{kind}: the test cannot run it"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/exchange.md", "exec"), {})
    return out.getvalue()


def test_the_examples_run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(trained.run, "runs/my")
    tmt_here("train", trained.config, "--output", "runs/pre", *PRE_NORM).ok()
    (tmp_path / "path" / "to").mkdir(parents=True)
    Path("path/to/opus-mt-en-de").symlink_to(tmp_path / "my-marian")  # which the first example makes
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
    by_script = {script for _, code in blocks for sign, script in SCRIPT_OF.items() if sign in code}
    assert by_script == {*SCRIPT_OF.values()}
    releasing = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    assert all((ROOT / "scripts" / script).exists() and script in releasing for script in by_script)

    printed = {code: run_block(kind, code) for kind, code in blocks if not any(sign in code for sign in SCRIPT_OF)}
    marian, imported, exported, pegasus = (
        next(text for code, text in printed.items() if sign in code)
        for sign in ("import MarianMTModel", "tmt import", "--format ctranslate2", "import MarianTokenizer, Pegasus")
    )
    assert marian == f"{imported.splitlines()}\n" and len(imported) > 1
    assert len(exported.splitlines()) == 1
    # The model searches with the other form, which `generate` lacks: 1 is written.
    search = ("--set", "search.length_penalty_form=power", "--set", "search.stop=beam_finished", "--length-penalty", 1)
    assert pegasus == f"{tmt_here('translate', 'runs/pre', *search, stdin='A dog runs.').ok().lines}\n"

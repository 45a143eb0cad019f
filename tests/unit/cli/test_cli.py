"""What the command line makes of failures that nobody further down has words for: one line, and a status."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from harness import tmt_here

import transformer_mt.training.loop  # noqa: F401 (what imports `read_lines` has done so before it is patched)
from transformer_mt import __main__ as command
from transformer_mt.cli.main import main


def failing(error: Exception) -> tuple[int, str]:
    """Status and line where reading a file raises this."""
    with patch("transformer_mt.system.lines.read_lines", side_effect=error):
        done = tmt_here("eval", "--hyp", "hyp", "--ref", "ref")
    return done.status, done.refusal


def torch_out_of_memory() -> Exception:
    try:
        torch.empty(1 << 60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("there is as much memory as that")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Traceback (most recent call last):\n  File …\nMemoryError: of another process"),
    ],
)
def test_out_of_memory_is_a_line(error: Exception) -> None:
    status, line = failing(error)
    assert status == 1 and "out of memory" in line and "search.batch_tokens" in line
    status, line = failing(torch_out_of_memory())
    assert status == 1 and "out of memory" in line


@pytest.mark.parametrize(
    ("number", "status", "part"),
    [
        (errno.EMFILE, 1, "ulimit -n"),
        (errno.ENOMEM, 1, "search.workers"),
        (errno.EACCES, 2, "closed/text: cannot be used (Permission denied)"),
        (errno.ENAMETOOLONG, 2, "closed/text: cannot be used (File name too long)"),
    ],
)
def test_what_the_system_refuses_is_a_line(number: int, status: int, part: str) -> None:
    found, line = failing(OSError(number, os.strerror(number), "closed/text"))
    assert found == status and part in line


def test_no_home_directory_is_a_line() -> None:
    status, line = failing(RuntimeError("Could not determine home directory."))
    assert status == 2 and "HOME" in line


def test_other_errors_are_bugs_and_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="of another kind"):
        failing(RuntimeError("of another kind"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "--hyp", "a\0b", "--ref", "text"),
        ("tokenizer", "train", "--input", "a\0b", "--output", "tok.model"),
        ("data", "check", "nul.yaml"),
        ("train", "nul.yaml", "--output", "run"),
    ],
)
def test_nul_in_a_path_is_a_line(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("a\n")
    Path("nul.yaml").write_text('data: {src_lang: en, tgt_lang: de, train: [{src: "a\\0b", tgt: text}]}\n')
    done = tmt_here(*arguments)
    assert done.status == 2 and "NUL byte" in done.refusal


def test_a_tokenizer_does_not_go_to_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("a b\n" * 99)
    done = tmt_here("tokenizer", "train", "--input", "text", "--output", "-")
    assert done.status == 2 and done.refusal.startswith("tmt: --output -: a model is a file of its own")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_an_interrupt_while_modules_are_loaded_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "transformer_mt.cli.main":
                raise KeyboardInterrupt

    monkeypatch.setattr("transformer_mt.system.signals.interrupts_after_imports", lambda: None)
    monkeypatch.delitem(sys.modules, "transformer_mt.cli.main")
    monkeypatch.setattr("sys.meta_path", [Interrupt, *sys.meta_path])
    with pytest.raises(SystemExit, match="tmt: interrupted"):
        command.main()


def test_stdout_is_utf8_where_the_terminal_is_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hyp", "ref"):
        (tmp_path / name).write_text("a b c d\nb c d e\n")
    monkeypatch.setattr(
        "sys.argv", ["tmt", "eval", "--hyp", f"{tmp_path}/hyp", "--ref", f"{tmp_path}/ref", "--confidence"]
    )
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with patch.object(sys, "stdout", out), pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    assert "±" in out.buffer.getvalue().decode()


def test_paths_of_other_bytes(tmp_path: Path) -> None:
    path = f"{tmp_path}/a\udc80b"
    Path(path).write_text("a b c d\n")
    done = tmt_here("eval", "--hyp", path, "--ref", path, "--json").ok()
    assert json.loads(done.stdout)


def test_windows_is_one_line() -> None:
    """Before anything is imported that it does not have."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(('fcntl', 'resource', 'pwd', 'termios'))\n"
        "from transformer_mt.cli.main import main; sys.platform = 'win32'; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tmt: Windows: is not supported") and len(done.stderr.splitlines()) == 1

"""Which code this is: for what is trained today, and must be understood in a year."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
from pathlib import Path

import transformer_mt


@functools.cache
def code_version() -> str:
    """Return the release, and the commit where it is known: ``0.1.0, commit 0a1b…`` (``-dirty``: with changes).

    It is known in a checkout that git can read, and after ``pip install git+https://…`` (PEP 610).
    """
    commit = _commit_of_checkout(Path(transformer_mt.__file__).parent.parent) or _commit_of_installation()
    return transformer_mt.__version__ + (f", commit {commit}" if commit else "")


def _commit_of_checkout(root: Path) -> str | None:
    if not (root / ".git").exists():  # installed; git would find a repository that this lies in by chance
        return None
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run([*command, "--dirty"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no git, nothing committed, or a checkout of somebody else's
        return None
    return done.stdout.strip() or None


def _commit_of_installation() -> str | None:
    try:
        text = importlib.metadata.distribution("transformer_mt").read_text("direct_url.json")
        commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) else None

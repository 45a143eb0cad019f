"""Which code this is: the commit of a checkout, or that which pip installed from; never that of what lies around it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import transformer_mt
from transformer_mt.system.origin import code_version

VERSION = transformer_mt.__version__


def git(at: Path, *words: str) -> str:
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *who, "-C", at, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package at another place, installed from no checkout."""
    package = tmp_path / "project" / "transformer_mt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(transformer_mt, "__file__", str(package / "__init__.py"))
    installed(monkeypatch, None)
    code_version.cache_clear()
    yield package
    code_version.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, direct_url: str | None) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            return direct_url if name == "direct_url.json" else None

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())


def committed(root: Path) -> str:
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    git(root, "tag", "v9")  # which must not stand for the commit
    return git(root, "rev-parse", "HEAD")


def test_the_commit_of_a_checkout(package: Path) -> None:
    commit = committed(package.parent)
    assert code_version() == f"{VERSION}, commit {commit}"


def test_a_changed_checkout_is_told_apart(package: Path) -> None:
    commit = committed(package.parent)
    (package / "__init__.py").write_text("changed")
    assert code_version() == f"{VERSION}, commit {commit}-dirty"


def test_a_checkout_without_commits_or_git(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(package.parent, "init", "-q")
    assert code_version() == VERSION
    code_version.cache_clear()
    monkeypatch.setenv("PATH", str(package))
    assert code_version() == VERSION


def test_a_repository_around_an_installed_package_is_not_its_own(package: Path) -> None:
    committed(package.parent.parent)
    assert code_version() == VERSION


@pytest.mark.parametrize(
    ("direct_url", "commit"),
    [
        ({"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}}, ", commit 0a1b"),
        ({"url": "file:///project", "dir_info": {"editable": True}}, ""),
        ([], ""),
    ],
)
def test_what_pip_installed_from(package: Path, monkeypatch: pytest.MonkeyPatch, direct_url: Any, commit: str) -> None:
    installed(monkeypatch, json.dumps(direct_url))
    assert code_version() == VERSION + commit

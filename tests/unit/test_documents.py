"""What the documents say about the project is so: links lead somewhere, commands parse, quoted code stands in its file,
and tests that are named exist."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from harness import PAGES, ROOT, commands_of
from ruamel.yaml import YAML

from transformer_mt.cli.main import app
from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))

MAX_PICTURE_BYTES = 200_000
CODE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def links(document: Path) -> list[tuple[str, str, str]]:
    """(! of a picture or "", text, target) of each link outside of code."""
    return LINK.findall(CODE.sub("", document.read_text(encoding="utf-8")))


def anchors(document: Path) -> set[str]:
    """As GitHub names headings: small letters, no punctuation, hyphens for spaces, a number where a name is taken."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", CODE.sub("", document.read_text(encoding="utf-8")), re.M):
        text = LINK.sub(r"\2", heading)
        name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found.add(next(one for one in (name, *(f"{name}-{n}" for n in range(1, 99))) if one not in found))
    return found


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for picture, text, target in links(document):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target
        if picture:
            assert text, f"{target} has no text for those who do not see it"
            assert file.stat().st_size <= MAX_PICTURE_BYTES, target


def test_links_are_found_and_anchors_named(tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    file.write_text("# A → b, c_d!\n## A\n## A\n[x](y.md#z) ![p](q.svg)\n```\n# no\n[n](o)\n```\n", encoding="utf-8")
    assert links(file) == [("", "x", "y.md#z"), ("!", "p", "q.svg")]
    assert anchors(file) == {"a--b-c_d", "a", "a-1"}


def arguments_of_tmt(words: list[str]) -> list[str] | None:
    """What a command line gives to `tmt`, however it starts it; None where it does not."""
    for place, word in enumerate(words):
        if word == "tmt" or word.endswith("/tmt"):
            return words[place + 1 :]
        if word == "transformer_mt" and words[place - 1] == "-m":
            return words[place + 1 :]
    return None


def parse(arguments: list[str]) -> dict[str, Any]:
    """The values of a command of `tmt`, without running it; an error where it would be refused."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    values: dict[str, Any] = command.make_context("tmt", arguments).params
    return values


def assert_is_key(dotted: str) -> None:
    """A key of a configuration, or something inside of one, as of `data.clean.scripts`."""
    section: Any = Config
    for name in dotted.split("."):
        if not hasattr(section, "model_fields"):
            return
        assert name in section.model_fields, f"{dotted} is no key"
        section = section.model_fields[name].annotation


def assert_script(path: Path, words: list[str]) -> None:
    """A script has the options that it is given. (A shell script hands them to the Python script of its name.)"""
    text = "".join(file.read_text(encoding="utf-8") for file in path.parent.glob(f"{path.stem}.*"))
    for option in words:
        if option.startswith("--"):
            assert re.search(rf"{option.partition('=')[0]}\b", text), f"{path.name} has no {option}"


@documents
def test_commands_are_understood(document: Path) -> None:
    for words in commands_of(document):
        for word in words:
            if re.match(r"(configs|scripts|tests)/", word) and "NAME" not in word:
                assert (ROOT / word).exists(), word
        for place, word in enumerate(words):
            if word.startswith("scripts/"):
                assert_script(ROOT / word, words[place + 1 :])
        if (arguments := arguments_of_tmt(words)) is not None:
            for setting in parse(arguments).get("overrides", []):
                assert_is_key(setting.partition("=")[0])


@pytest.mark.parametrize(
    "line",
    [
        "tmt train x.yaml --bogus",
        "nice tmt bogus x",
        "tmt train",
        "tmt train x --set model.bogus=1",
        "python scripts/nothere.py",
        "python scripts/fuzz.py --bogus",
    ],
)
def test_what_is_not_there_is_found(line: str, tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    file.write_text(f"```sh\n{line}\n```\n")
    with pytest.raises(Exception, match=r"bogus|nothere|[Mm]issing"):
        test_commands_are_understood(file)


def excerpts(page: Path) -> Iterator[tuple[Path, str]]:
    """Each block of Python with its file: the last that was linked to before it."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        *_, file = [target for _, _, target in LINK.findall(text[: block.start()]) if target.endswith(".py")]
        yield (page.parent / file).resolve(), block[1]


@pages
def test_code_stands_in_its_file(page: Path) -> None:
    for file, code in excerpts(page):
        lines, wanted = file.read_text(encoding="utf-8").splitlines(), code.splitlines()
        parts = (lines[start : start + len(wanted)] for start in range(len(lines)))
        assert any(textwrap.dedent("\n".join(part)).splitlines() == wanted for part in parts), f"{file.name}:\n{code}"


def test_both_pages_quote_the_same_code() -> None:
    english, korean = (list(excerpts(page)) for page in PAGES)
    assert english == korean != []


@pages
def test_pictures_have_their_commands(page: Path) -> None:
    written = {word for words in commands_of(page) for word in words}
    for picture, _, target in links(page):
        assert not picture or f"docs/attention/{Path(target).name}" in written, target


def test_configurations_are_valid() -> None:
    """Whole ones, and parts of one, also of its section ``data``."""
    least = {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "a", "tgt": "b"}]}
    found = set()
    for document in DOCUMENTS:
        for block in re.findall(r"^```yaml\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S):
            tree = YAML(typ="safe").load(block)
            tree = {"data": tree} if isinstance(tree.get("train"), list) else tree
            validate(tree | {"data": least | tree.get("data", {})}, document.name)
            found.add(document.name)
    assert "data.md" in found


@documents
def test_tests_that_are_named_exist(document: Path) -> None:
    if document.name in ("log.md", "CHANGELOG.md"):  # what was
        return
    tests = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py")}
    names = set(re.findall(r"def (test_\w+)", "\n".join(tests.values()))) | {path.stem for path in tests}
    assert set(re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8"))) <= names

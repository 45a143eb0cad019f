"""`tmt translate --align`: its lines, and that nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Trained, text, tmt_here, write

from transformer_mt.decoding.translator import Translator


def links(field: str) -> list[list[int]]:
    return [[int(number) for number in pair.split("-")] for pair in field.split()]


@pytest.fixture(scope="module")
def lines(sources: list[str]) -> list[str]:
    return [line for line in sources if len(line.split()) <= 8][:12]


def test_a_model_that_copies_links_each_word_to_its_copy(trained: Trained, lines: list[str]) -> None:
    """Blank lines stay blank; the translations are those without links."""
    lines = [*lines[:3], "", " ", *lines[3:]]
    plain, found = (tmt_here("translate", trained.run, *o, stdin=text(lines)).ok().lines for o in ((), ("--align",)))
    num_words = num_right = 0
    for line, translation, with_links in zip(lines, plain, found, strict=True):
        if not line.strip():
            assert with_links == translation == ""
            continue
        assert with_links.startswith(f"{translation} ||| ")
        pairs = links(with_links.removeprefix(f"{translation} ||| "))
        assert [i for i, _ in pairs] == list(range(len(line.split())))
        words = translation.split()
        if line == translation:
            num_words += len(words)
            num_right += sum(i == j for i, j in pairs)
        assert all(j < len(words) for _, j in pairs)
    assert num_words > 20 and num_right > 0.9 * num_words


def test_json_and_lists_of_alternatives(trained: Trained, lines: list[str], tmp_path: Path) -> None:
    command = ("translate", trained.run, "--input", write(tmp_path / "lines", ["", *lines]), "--n-best", 2)
    plain = [json.loads(line) for line in tmt_here(*command, "--json").ok().lines]
    found = [json.loads(line) for line in tmt_here(*command, "--json", "--align").ok().lines]
    assert found[0] == {**plain[0], "alignment": [], "alternatives": [{**plain[0]["alternatives"][0], "alignment": []}]}
    expected = []
    for number, (one, other) in enumerate(zip(plain, found, strict=True)):
        assert other["alignment"] == other["alternatives"][0]["alignment"]
        for alternative in other["alternatives"]:
            pairs = " ".join(f"{i}-{j}" for i, j in alternative["alignment"])
            expected.append(f"{number} ||| {alternative['text']} ||| {pairs} ||| {alternative['score']:.4f}")
        for row in (other, *other["alternatives"]):
            assert "alignment" in row
            del row["alignment"]
        assert other == one
    assert tmt_here(*command, "--align").ok().lines == expected


def test_several_processes_parts_and_prefixes(trained: Trained, lines: list[str]) -> None:
    text_of = [f"{line}. {line}" for line in lines] * 2
    prefixes = [line.split()[0] for line in text_of]
    with (
        Translator.load(trained.run, ["search.workers=1"]) as one,
        Translator.load(trained.run, ["search.workers=2"]) as two,
    ):
        found, expected = (list(each.stream(text_of, prefixes, align=True)) for each in (two, one))
    assert all(translation.alignment for translation in found)
    assert [(each.text, each.alignment) for each in found] == [(each.text, each.alignment) for each in expected]


def test_a_line_that_is_too_long_to_read_at_once_is_refused(trained: Trained) -> None:
    done = tmt_here("translate", trained.run, "--align", stdin=text(["a" * (5 << 20)]))
    assert done.status == 2 and "longer than 4 MiB" in done.refusal

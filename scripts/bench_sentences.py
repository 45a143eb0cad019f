#!/usr/bin/env python
"""Measure how well sentence ends are found: ours, and those of sentencex where it is installed.

Makes paragraphs of five to ten lines by chance from real text of one sentence (or a little more) a line, and counts the
borders between lines that are found, and the cuts inside lines. Most of the latter are sentence ends, too, and no
mistakes; both count them alike, so that it is the difference that tells. Lines that end with no mark of a sentence end,
or begin in lower case (but in tokenised text), are left out: they are parts of lists.

    python scripts/bench_sentences.py --text en=train.en.gz de=train.de.gz "ja=/usr/share/locale/ja/*/*.mo"

Files are text, plain or compressed, or messages of programs: all that a pattern such as "/usr/share/locale/ja/*/*.mo"
matches. Chinese and Japanese are joined without a space, and only lines that end in a mark of full width are taken:
behind others there would be a space.
"""

from __future__ import annotations

import argparse
import gettext
import glob
import random
import re
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from transformer_mt.system.lines import read_lines
from transformer_mt.text.sentences import split_line

NUM_PARAGRAPHS = 1000
_END = re.compile(r"[.!?…。！？؟۔।][\"'”’»›)\]」』）“]*$")
_WIDE_END = re.compile(r"[。！？][”’」』）]*$")


def lines_of(path: str) -> list[str]:
    if not path.endswith(".mo"):
        return [line.strip() for line in read_lines(path)]
    lines = set()
    for name in glob.glob(path):
        with open(name, "rb") as file:
            messages = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        lines |= {" ".join(text.split()) for key, text in messages.items() if key}
    return sorted(lines)


def is_sentence(line: str, end: re.Pattern[str]) -> bool:
    if not (end.search(line) and 20 <= len(line) <= 400) or "%" in line or (line.isascii() and len(line.split()) < 4):
        return False
    first = next((character for character in line if character.isalnum()), "")
    return not first.islower() or line[-2] == " "


def ours(text: str, language: str) -> set[int]:
    split = split_line(text, lambda texts: [1 + (one == text) for one in texts], 1)
    ends, at = set(), len(split.lead)
    for part in split.parts:
        ends.add(at + len(part.text))
        at += len(part.text) + len(part.gap)
    return ends - {len(text)}


def sentencex(text: str, language: str) -> set[int]:
    ends, at = set(), 0
    for part in import_module("sentencex").segment(language, text):
        ends.add(at + len(part.rstrip()))
        at += len(part)
    return ends - {0, len(text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True, metavar="LANGUAGE=FILE")
    finders: list[Callable[[str, str], set[int]]] = [ours, *([sentencex] if find_spec("sentencex") else [])]
    print("language  borders  " + "  ".join(f"{find.__name__}: found  inside  seconds" for find in finders))
    for argument in parser.parse_args().text:
        language, _, path = argument.partition("=")
        gap = "" if language in ("zh", "ja") else " "
        draw = random.Random(1)
        lines = [line for line in lines_of(path) if is_sentence(line, _END if gap else _WIDE_END)]
        draw.shuffle(lines)
        paragraphs: list[list[str]] = []
        while len(lines) >= 10 and len(paragraphs) < NUM_PARAGRAPHS:
            size = draw.randint(5, 10)
            paragraphs.append(lines[:size])
            del lines[:size]
        num_borders = sum(len(paragraph) - 1 for paragraph in paragraphs)
        row = [f"{language:8}", f"{num_borders:7,}"]
        for find in finders:
            num_found = num_inside = 0
            began = time.perf_counter()
            for paragraph in paragraphs:
                found = find(gap.join(paragraph), language)
                borders, at = set(), 0
                for line in paragraph[:-1]:
                    borders.add(at + len(line))
                    at += len(line) + len(gap)
                num_found += len(found & borders)
                num_inside += len(found - borders)
            shares = [f"{100 * number / max(1, num_borders):6.2f} %" for number in (num_found, num_inside)]
            row += [*shares, f"{time.perf_counter() - began:.2f}"]
        print("  ".join(row), path, flush=True)


if __name__ == "__main__":
    main()

"""Expected failures: one line, whatever is quoted in it."""

from __future__ import annotations

import pytest

from transformer_mt.errors import InputError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a.txt: 3 lines — 한국어, naïve", "a.txt: 3 lines — 한국어, naïve"),
        ("two\nlines\r.txt\t", "two\\nlines\\r.txt\\t"),
        ("\x1b[31m\u2028\x85\udcff", "\\x1b[31m\\u2028\\x85\\udcff"),
    ],
)
def test_what_is_no_text_is_shown_on_one_line(message: str, line: str) -> None:
    assert str(InputError(message)) == line


def test_the_middle_of_a_long_line_is_left_out() -> None:
    whole = f"c.yaml: {'x' * 1950}; mend it"
    assert str(InputError(whole)) == whole
    line = str(InputError(f"c.yaml: {'x' * 100_000}; mend it"))
    assert len(line) < 2000 and line.startswith("c.yaml: xxx") and line.endswith("xxx; mend it")

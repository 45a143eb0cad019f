"""Each rule at its limit and one beyond it, on either side; counts; nothing is invented."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.cleaning import CleanReport, SentencePair, Verdict, clean
from transformer_mt.config import CleanConfig

NO_RULES = CleanConfig(drop_identical=False, max_chars=None, max_char_ratio=None, max_word_chars=None)

texts = st.text(alphabet=st.sampled_from("aé字\u2028\u00a0\t .\u0301"), max_size=12)
pairs = st.builds(SentencePair, texts, texts)
rule_sets = st.builds(
    CleanConfig,
    drop_identical=st.booleans(),
    max_chars=st.none() | st.integers(1, 8),
    max_char_ratio=st.none() | st.floats(1, 4),
    max_word_chars=st.none() | st.integers(1, 6),
)


def reason(src: str, tgt: str, rules: CleanConfig = NO_RULES) -> str | None:
    return clean(SentencePair(src, tgt), rules).reason


def test_kept_pair_loses_only_the_white_space_around_it() -> None:
    pair = SentencePair(" \tA  dog.\u00a0", "Ein\u2028Hund. \n")
    assert clean(pair, CleanConfig()) == Verdict(SentencePair("A  dog.", "Ein\u2028Hund."), None)


@pytest.mark.parametrize(("src", "tgt"), [("", "Hund"), ("dog", ""), ("", ""), (" \t\u00a0\u3000", "Hund")])
def test_empty_side_is_rejected_without_any_rule(src: str, tgt: str) -> None:
    assert reason(src, tgt) == "empty"


def test_identical_sides_are_kept_unless_asked() -> None:
    assert reason("Berlin", "Berlin", CleanConfig()) is None
    assert reason("Berlin ", " Berlin", CleanConfig(drop_identical=True)) == "identical"
    assert reason("Berlin", "berlin", CleanConfig(drop_identical=True)) is None


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("rules", "at_limit", "beyond", "expected"),
    [
        (CleanConfig(), "x" * 3000, "x" * 3001, "too_long_characters"),
        (CleanConfig(max_chars=4), "字字字字", "字字字字字", "too_long_characters"),
        (CleanConfig(max_char_ratio=2.5), "12345", "123456", "length_ratio"),
        (CleanConfig(max_word_chars=3), "abc def", "abc defg", "word_too_long"),
    ],
)
def test_limit_is_kept_and_one_beyond_is_rejected(
    rules: CleanConfig, at_limit: str, beyond: str, expected: str, swap: bool
) -> None:
    def judge(text: str) -> str | None:
        return reason("ab", text, rules) if swap else reason(text, "ab", rules)

    assert judge(at_limit) is None
    assert judge(beyond) == expected
    assert reason(beyond, "ab") is None


def test_first_broken_rule_is_the_reason() -> None:
    rules = CleanConfig(drop_identical=True, max_chars=3, max_char_ratio=1.0, max_word_chars=2)
    assert reason("", "abcd", rules) == "empty"
    assert reason("abcd", "abcd", rules) == "identical"
    assert reason("abcd", "abc", rules) == "too_long_characters"
    assert reason("abc", "ab", rules) == "length_ratio"
    assert reason("abc", "a c", rules) == "word_too_long"


@given(pairs, rule_sets)
def test_clean_invents_no_text_and_is_idempotent(pair: SentencePair, rules: CleanConfig) -> None:
    verdict = clean(pair, rules)
    for before, after in zip(pair, verdict.pair, strict=True):
        assert after in before
        assert before.replace(after, "", 1).strip() == ""
    assert clean(verdict.pair, rules) == verdict


@given(pairs, rule_sets)
def test_sides_are_judged_alike_and_rules_only_reject(pair: SentencePair, rules: CleanConfig) -> None:
    assert reason(pair.src, pair.tgt, rules) == reason(pair.tgt, pair.src, rules)
    if reason(pair.src, pair.tgt, rules) is None:
        assert reason(pair.src, pair.tgt) is None


def test_report_counts_any_reason() -> None:
    report = CleanReport()
    for found in [None, "length_ratio", None, "empty", "too_many_src_tokens", "length_ratio"]:
        report.count(found)
    assert report == CleanReport(2, {"length_ratio": 2, "empty": 1, "too_many_src_tokens": 1})
    assert report.num_pairs == 6
    assert report.summary() == "6 pairs: 2 kept, 1 empty, 2 length_ratio, 1 too_many_src_tokens"


def test_summary_groups_thousands() -> None:
    report = CleanReport(28_731, {"length_ratio": 257, "empty": 12})
    assert report.summary() == "29,000 pairs: 28,731 kept, 12 empty, 257 length_ratio"
    assert CleanReport().summary() == "0 pairs: 0 kept"


def test_reports_survive_json() -> None:
    report = CleanReport(3, {"empty": 4, "identical": 5})
    assert CleanReport(**json.loads(json.dumps(dataclasses.asdict(report)))) == report

"""Systems compared: sacreBLEU's own p values, verdicts that are known beforehand, what is wrong in which sentence."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
from harness import ROOT, text, tmt_here, write
from sacrebleu import BLEU, CHRF
from sacrebleu.significance import PairedTest

from transformer_mt.cli import evaluate
from transformer_mt.errors import InputError
from transformer_mt.evaluation import significance
from transformer_mt.evaluation.comparison import Comparison, Part, compare, marked
from transformer_mt.evaluation.comparison_page import render_comparison
from transformer_mt.evaluation.comparison_text import format_comparison
from transformer_mt.evaluation.lengths import System
from transformer_mt.evaluation.word_accuracy import (
    accuracy_by_frequency,
    names_in,
    names_kept,
    numbers_in,
    numbers_kept,
    words_in,
)

WORDS = ["der", "die", "das", "Hund", "Mann", "Ball", "rennt", "wirft", "fängt", "schnell", "weit", "heute"]
RANDOM = random.Random(1)
TRAIN = ["der Hund rennt", "der Mann"]
REFERENCE = [" ".join(RANDOM.choices(WORDS, k=RANDOM.randint(4, 12))) for _ in range(60)]


def damaged(share: float, seed: int) -> list[str]:
    """The reference, each word replaced by chance."""
    draw = random.Random(seed)
    return [" ".join("falsch" if draw.random() < share else word for word in line.split()) for line in REFERENCE]


BAD, BAD_TOO, GOOD = damaged(0.4, 2), damaged(0.4, 3), damaged(0.1, 4)
SYSTEMS = [System("bad", BAD), System("good", GOOD), System("bad, too", BAD_TOO), System("the same", BAD)]


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    """Seconds instead of half a minute: sacreBLEU's tests with a tenth and a fiftieth of their samples."""
    with (
        patch.dict(PairedTest._DEFAULT_SAMPLES, {"bs": 100, "ar": 200}),
        patch.multiple(significance, NUM_BOOTSTRAP=100, NUM_RANDOMISATIONS=200),
    ):
        yield


@pytest.fixture(scope="module")
def found(few_samples: None) -> Comparison:
    return compare(SYSTEMS, [REFERENCE], train=TRAIN, num_shown=2)


def test_scores_and_p_values_are_sacrebleus(found: Comparison) -> None:
    metrics = {"bleu": BLEU(), "chrf": CHRF(), "chrf++": CHRF(word_order=2)}
    named = [system[:2] for system in SYSTEMS]
    for test, key in (("bs", "p_bootstrap"), ("ar", "p_randomisation")):
        signatures, expected = PairedTest(named, metrics, [REFERENCE], test_type=test)()
        for name, label in zip(metrics, signatures, strict=True):
            own = found.scores[name]
            assert own.label == label
            assert str(signatures[label]) in (own.bootstrap_signature, own.randomisation_signature)
            assert [one.score for one in own.systems] == [result.score for result in expected[label]]  # type: ignore[union-attr]
            p_values = [getattr(one, key) for one in own.systems]
            assert p_values[1:3] == [result.p_value for result in expected[label][1:3]]  # type: ignore[union-attr]
            assert p_values[0] is p_values[3] is None


def test_the_verdict_says_what_is_known(found: Comparison) -> None:
    better, open_, level = found.verdicts
    assert better == "good is better than bad in BLEU, chrF2 and chrF2++, hardly by chance."
    assert "hardly" not in open_ and "may be chance" in open_
    assert level == "the same is level with bad in BLEU, chrF2 and chrF2++."
    turned = compare([SYSTEMS[1], SYSTEMS[0]], [REFERENCE])
    assert turned.verdicts == ["bad is worse than good in BLEU, chrF2 and chrF2++, hardly by chance."]


def test_few_sentences_prove_nothing() -> None:
    """The swaps that leave five differences as they are, or turn all of them around, are one in 16."""
    for num_sentences, is_clear in ((5, False), (7, True)):
        lines = slice(0, num_sentences)
        wrong, right = ["x y z q"] * num_sentences, REFERENCE[lines]
        found = compare([System("wrong", wrong), System("right", right)], [right])
        one = found.scores["chrf"].systems[1]
        assert one.p_bootstrap is not None is not one.p_randomisation
        assert max(one.p_bootstrap, one.p_randomisation) < 0.05 and one.num_differing == num_sentences
        assert one.is_clear == is_clear == ("hardly" in found.verdicts[0])


def test_sentences_are_won_and_lost(found: Comparison) -> None:
    chrf = CHRF()
    first, other = (
        [chrf.sentence_score(line, [ref]).score for line, ref in zip(s, REFERENCE, strict=True)] for s in (BAD, GOOD)
    )
    gains = [b - a for a, b in zip(first, other, strict=True)]
    good, _, same = found.sentences
    assert good.num_won == sum(gain > 0 for gain in gains) > 30
    assert good.num_lost == sum(gain < 0 for gain in gains)
    assert good.num_won + good.num_lost + good.num_tied == 60
    assert [pair.other_chrf - pair.first_chrf for pair in good.won] == sorted(gains)[:-3:-1]
    assert [pair.other_chrf - pair.first_chrf for pair in good.lost] == [gain for gain in sorted(gains)[:2] if gain < 0]
    for pair in good.won:
        assert "".join(part.text for part in pair.first) == BAD[pair.line - 1]
        assert pair.references == [REFERENCE[pair.line - 1]]
    assert (same.num_won, same.num_lost, same.num_tied, same.won) == (0, 0, 60, [])


def test_differing_words_are_marked() -> None:
    assert marked("Ein Hund  rennt weit.", "Ein Mann rennt weit.") == [
        Part("Ein", False),
        Part(" ", False),
        Part("Hund", True),
        Part("  ", False),
        Part("rennt weit.", False),
    ]
    assert marked("a b", "x a b") == [Part("a b", False)]
    assert marked("你好吗 ", "你们好") == [Part("你", False), Part("好", False), Part("吗", True), Part(" ", False)]
    assert marked("", "x") == []
    loop, other = (f"Er {' '.join([words] * 5000)} rennt." for words in ("der Hund", "der Mann"))
    assert [(part.text[:6], part.differs) for part in marked(loop, other)] == [
        ("Er der", False),
        (" ", False),
        ("Hund d", True),
        (" ", False),
        ("rennt.", False),
    ]


def test_words_numbers_and_names() -> None:
    assert words_in("Der Hund, der's weiß: 3 你好。हिन्दी") == [
        "Der",
        "Hund",
        "der",
        "s",
        "weiß",
        "3",
        "你",
        "好",
        "हिन्दी",
    ]
    assert numbers_in("1,000 und 1.000, 12:30 und ٣; 7.") == {"1000", "1230", "3", "7"}
    assert names_in("Dear Anna saw I. Then Bob's EU-Plan came. “Carl” went, as NASA did") == {
        "Anna",
        "Bob",
        "EU",
        "Plan",
        "NASA",
    }


def test_numbers_and_names_that_are_missing_or_added() -> None:
    references = [["Er sah Anna um 12.30 Uhr.", "Es waren 7."], ["Anna sah er 12:30.", ""]]
    sources = ["He saw Anna at 12:30.", "There were 7, not 8."]
    kept = numbers_kept(["Er sah uns um 1.30 Uhr.", "Es waren 8."], references, sources)
    assert (kept.num_expected, kept.num_missing, kept.num_added) == (2, 2, 1)
    assert [(change.line, change.missing, change.added) for change in kept.changes] == [
        (1, ["1230"], ["130"]),
        (2, ["7"], []),
    ]
    names = names_kept(["Er sah Bob um 12.30 Uhr.", "Es waren 7."], references[:1], sources)  # Uhr is no name
    assert (names.num_expected, names.changes[0].missing, names.changes[0].added) == (1, ["Anna"], ["Bob"])
    assert names_kept(["Anna sah er.", ""], references[:1], sources).num_missing == 0
    assert names_kept(["Anna sah er.", ""], references[:1], None).num_missing == 1  # Uhr


def test_accuracy_of_words_by_their_frequency() -> None:
    train = ["der der der Hund"] * 4
    [never, once, few, some, *_] = accuracy_by_frequency([["der der Hund Wal"]], [["der Hund Hund Igel"]], train)
    assert [bucket.label for bucket in (never, once, few, some)] == ["0", "1", "2–9", "10–99"]
    assert (never.num_reference_words, few.num_reference_words, some.num_reference_words) == (1, 2, 1)
    [wal], [hund], [der] = never.systems, few.systems, some.systems
    assert (wal.num_words, wal.num_right, wal.precision, wal.recall) == (1, 0, 0.0, 0.0)
    assert (hund.num_words, hund.num_right, hund.precision, hund.recall) == (1, 1, 1.0, 0.5)
    assert (der.num_words, der.num_right, der.precision, der.recall) == (2, 1, 0.5, 1.0)
    assert once.systems[0].precision is None is once.systems[0].recall


def test_of_a_training_text_only_words_that_are_asked_for_are_kept() -> None:
    tracemalloc.start()
    try:
        [never, once, *_] = accuracy_by_frequency([["w7"]], [["w8"]], (f"w{i}" for i in range(30_000)))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert (never.num_reference_words, once.num_reference_words) == (0, 1)


def test_one_sentence_and_text_that_looks_tokenised() -> None:
    found = compare([System("a", ["x y ."]), System("b", ["x y."])], [["x y."]])
    assert found.notes == [
        "a: the hypotheses look tokenised (lines end in ' .'); detokenise both sides for a comparable score"
    ]
    assert all(scores.systems[1].p_randomisation in (None, 1) for scores in found.scores.values())
    assert "hardly" not in found.verdicts[0]
    assert format_comparison(found, 5)


def test_a_terminal_does_not_act_upon_what_it_is_shown() -> None:
    """Text of others may clear a screen or name a window."""
    found = compare([System("a", ["\x1b[2J Hund"]), System("b", ["Hund\x07"])], [["Hund"]], None, None)
    shown = format_comparison(found, 5)
    assert "\\x1b[2J Hund" in shown and "Hund\\x07" in shown
    assert "Scores of 1 sentence," in shown
    assert {c for c in shown if not c.isprintable()} == {"\n"}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="59 lines in short, 60 in references"):
        compare([SYSTEMS[0], System("short", BAD[:-1])], [REFERENCE], train=(pytest.fail("read") for _ in "a"))
    with pytest.raises(InputError, match=r"tok:13a.* and .*tok:char.*--tokenize"):
        compare([SYSTEMS[0], System("characters", BAD, tokenize="char")], [REFERENCE])


def test_the_page_stands_alone_and_has_what_the_text_has() -> None:
    systems = [System("<b>&", ["Ein <i>Hund</i> rennt", "b c"]), System("good", ["Ein Mann rennt", "b c"])]
    comparison = compare(systems, [["Ein Mann rennt", "b 7"]], ["A man & runs", "b 7"], train=["Mann"])
    page = render_comparison(comparison, 5)
    html = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))  # escaped, and all that is open is closed
    body = [*html.itertext()]
    for line in (*comparison.verdicts, "Ein ", "<i>Hund</i>", "A man & runs", "good, line 2: missing 7"):
        assert line in body
    assert [mark.text for mark in html.iter("mark")] == ["<i>Hund</i>", "Mann"]
    assert "b c" not in body  # a sentence that is level
    assert "http" not in page and not {"script", "link", "img"} & {element.tag for element in html.iter()}
    cells = {cell.text for cell in [*html.iter("td"), *html.iter("th")]}
    for number in (f"{score.score:.2f}" for report in comparison.lengths.all.reports for score in report.scores):
        assert any(cell and cell.startswith(number) for cell in cells)


def test_the_command(tmp_path: Path, found: Comparison) -> None:
    ref = write(tmp_path / "ref.de", REFERENCE)
    paths = [write(tmp_path / name, lines) for name, lines in zip(("bad", "good"), (BAD, GOOD), strict=True)]
    train = write(tmp_path / "train.de", TRAIN)
    command = ("compare", *paths, "--ref", ref, "--train", train, "--sentences", 2)
    expected = compare(SYSTEMS[:2], [REFERENCE], train=TRAIN, num_shown=2)
    [line] = tmt_here(*command, "--json").ok().lines
    assert json.loads(line) == json.loads(json.dumps(expected.as_dict()))
    page = tmp_path / "page.html"
    lines = tmt_here(*command, "--output", page).ok().lines
    assert page.read_text(encoding="utf-8").strip() == render_comparison(expected, 2).strip()
    assert lines == format_comparison(expected, 2).split("\n")
    assert lines[0] == found.verdicts[0]
    row = next(line for line in lines if line.startswith("  good "))
    assert f"{expected.scores['bleu'].systems[1].score:.2f} [" in row and "p 0.0099 and 0.0050" in row
    assert sum(line.startswith("  won, line ") for line in lines) == 2
    assert any("[falsch" in line for line in lines)

    for wrong, reason in (
        ((paths[0],), "bad alone found; give two systems"),
        ((paths[0], tmp_path), f"{tmp_path} is a model, which needs text; give --src F"),
        ((*paths, "--set", "search.beam_size=1"), "remove --set"),
        ((*paths, "--src", train), f"2 lines in {train}, 60 in {ref}"),
        ((*paths, "--tokenize", "13"), "unknown tokenizer '13'"),
        ((paths[0], tmp_path / "absent"), "absent"),
        ((*paths, "--train", tmp_path / "no text"), "no text"),
        ((*paths, "--output", tmp_path), "is a directory"),
        ((*paths, "--output", "-", "--json"), "stdout has the answer; name a file"),
        (("-", "-"), "stdin: cannot be two"),
    ):
        done = tmt_here("compare", *wrong, "--ref", ref)
        assert done.status == 2 and reason in done.refusal and not done.stdout


def test_a_file_is_scored_as_the_model_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyp, lines, names = write(tmp_path / "hyp", ["나는 간다."]), ["나는 간다."], ["src", "ref"]
    monkeypatch.setattr(evaluate, "translated", lambda *given: (lines, given[3] or "ko-mecab", given[4] or "ko"))

    def how(tokenize: str | None, tgt_lang: str | None) -> list[tuple[str | None, str | None]]:
        paths, are_models = [hyp, tmp_path], [False, True]
        systems = evaluate.load_systems(paths, are_models, ["I go."], [lines], names, [], tokenize, tgt_lang)
        return [(system.tokenize, system.tgt_lang) for system in systems]

    assert how(None, None) == [("ko-mecab", "ko")] * 2
    assert how("char", None)[0] == ("char", None) and how(None, "ja")[0] == (None, "ja")


def test_a_model_translates_first(tmp_path: Path) -> None:
    model = ROOT / "tests" / "golden" / "run"
    sources = ["a b c", "b c a d"]
    translations = tmt_here("translate", model, stdin=text(sources)).ok().lines
    files = [write(tmp_path / name, lines) for name, lines in (("src", sources), ("hyp", translations))]
    done = tmt_here("compare", files[1], model, "--src", files[0], "--ref", files[0]).ok()
    assert done.lines[0] == "run is level with hyp in BLEU, chrF2 and chrF2++."

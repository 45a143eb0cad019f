"""Scores by length: which sentence is in which group, what a group is worth, and the picture of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from harness import tmt_here, write
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from sacrebleu import BLEU, CHRF

from transformer_mt.errors import InputError
from transformer_mt.evaluation.lengths import System, default_edges, plot_lengths, scores_by_length

LENGTHS = (1, 2, 2, 3, 5, 5, 5, 6, 9, 20)
WORDS = ["der", "die", "das", "Hund", "Mann", "Ball", "rennt", "wirft", "fängt", "schnell", "weit", "heute"]


def sentence(num_words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


SOURCES = [sentence(length, 100 + i) for i, length in enumerate(LENGTHS)]
REFERENCES = [sentence(8, 200 + i) for i in range(len(LENGTHS))]
# Half of each reference, then other words: neither right nor wrong.
HYPOTHESES = [f"{reference[: 20 + i]} {sentence(2, i)}" for i, reference in enumerate(REFERENCES)]
SYSTEMS = [System("half", HYPOTHESES), System("right", REFERENCES)]


def test_each_sentence_is_in_the_group_of_its_source() -> None:
    groups = scores_by_length(SOURCES, [REFERENCES], SYSTEMS, [2, 4, 5, 8]).groups
    assert [(group.label, group.num_sentences) for group in groups] == [
        ("1–2", 3),
        ("3–4", 1),
        ("5", 3),
        ("6–8", 1),
        ("9+", 2),
    ]
    groups = scores_by_length(SOURCES, [REFERENCES], SYSTEMS, [10, 15, 20, 30]).groups
    assert [(group.shortest, group.longest) for group in groups] == [(1, 10), (16, 20)]  # none that is empty


def test_a_group_has_sacrebleus_scores_of_its_lines() -> None:
    scores = scores_by_length(SOURCES, [REFERENCES], SYSTEMS, [4])
    for group, lines in zip([*scores.groups, scores.all], (slice(0, 4), slice(4, 10), slice(0, 10)), strict=True):
        half, right = group.reports
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            expected = metric.corpus_score(HYPOTHESES[lines], [REFERENCES[lines]], n_bootstrap=1000)
            [found] = [score for score in half.scores if score.name == name]
            assert found.score == expected.score and 5 < found.score < 95
            assert found.interval == (expected._mean, expected._ci) and expected._ci > 0
            assert found.signature == str(metric.get_signature())
            assert right.score(name) == pytest.approx(100)


def test_of_one_sentence_there_is_no_interval() -> None:
    [_, one] = scores_by_length(SOURCES, [REFERENCES], SYSTEMS, [9]).groups
    assert one.num_sentences == 1
    assert all(score.interval is None for report in one.reports for score in report.scores)


def test_blank_sources_are_left_out_and_characters_are_words_where_there_are_no_spaces() -> None:
    sources = ["", "a b", "你好世界", " \t", "你好 world"]
    scores = scores_by_length(sources, [["x"] * 5], [System("s", ["x"] * 5)], [2, 3])
    assert [(group.label, group.num_sentences) for group in scores.groups] == [("1–2", 1), ("3", 1), ("4+", 1)]
    assert scores.all.num_sentences == 3
    with pytest.raises(InputError, match="blank lines only"):
        scores_by_length(["", " "], [["x"] * 2], [System("s", ["x"] * 2)])


@pytest.mark.parametrize(
    ("lengths", "edges"),
    [
        (range(1, 9), [1, 2, 3, 4, 5, 6, 7, 8]),
        (range(1, 10), [2, 4, 6, 8, 10]),
        ([*range(1, 25)] * 5 + [400], [5, 10, 15, 20, 25]),  # one in 121 is longer
        ([7], [1, 2, 3, 4, 5, 6, 7]),
        ([17] * 3, [5, 10, 15, 20]),
        ([3000], [500, 1000, 1500, 2000, 2500, 3000]),
    ],
)
def test_default_edges_are_round(lengths: list[int], edges: list[int]) -> None:
    assert default_edges(lengths) == edges


def test_systems_that_cannot_be_compared_are_refused() -> None:
    systems = [System("words", HYPOTHESES), System("characters", HYPOTHESES, tokenize="char")]
    with pytest.raises(InputError, match=r"tok:13a.* and .*tok:char.*--tokenize"):
        scores_by_length(SOURCES, [REFERENCES], systems)


def test_the_picture_has_each_score_and_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    scores = scores_by_length(SOURCES, [REFERENCES], SYSTEMS, [4, 6])
    plot_lengths(scores, tmp_path / "a.png")
    [figure] = figures
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["half", "right"]
    assert "tok:13a" in figure.get_supxlabel() and "nc:6" in figure.get_supxlabel()
    for number, (axes, label) in enumerate(zip(figure.axes, ("BLEU", "chrF2"), strict=True)):
        assert axes.get_title() == label
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1–4\n(4)", "5–6\n(4)", "7+\n(2)"]
        for line, rank in zip(axes.lines, (0, 1), strict=True):
            of_groups = [group.reports[rank].scores[number] for group in scores.groups]
            points = np.asarray(line.get_xydata()).tolist()
            assert [(round(place), score) for place, score in points] == [
                (i, one.score) for i, one in enumerate(of_groups)
            ]
        bars = [c.get_segments()[0] for c in axes.collections if isinstance(c, LineCollection)]
        expected = [group.reports[rank].scores[number].interval for rank in (0, 1) for group in scores.groups]
        for (low, high), interval in zip(bars, expected, strict=True):
            assert interval is not None
            assert high[1] - low[1] == pytest.approx(2 * interval.half_width)
            assert (high[1] + low[1]) / 2 == pytest.approx(interval.mean)


def test_the_command(tmp_path: Path) -> None:
    src, ref = write(tmp_path / "text.en", SOURCES), write(tmp_path / "text.de", REFERENCES)
    hyp = write(tmp_path / "half.de", HYPOTHESES)
    picture = tmp_path / "lengths.svg"
    texts = ("plot", "lengths", "--src", src, "--ref", ref)
    done = tmt_here(*texts, "--hyp", hyp, "--hyp", ref, "--edges", "4, 6", "--json", "--output", picture).ok()
    assert picture.read_bytes().startswith(b"<?xml")
    expected = scores_by_length(
        SOURCES, [REFERENCES], [System("half.de", HYPOTHESES), System("text.de", REFERENCES)], [4, 6]
    )
    [line] = done.lines
    assert json.loads(line) == expected.as_dict()

    short = write(tmp_path / "short.de", HYPOTHESES[:-1])
    for wrong, reason in (
        ((), "give a MODEL or --hyp F, and --output F.png or --json"),
        (("--hyp", hyp), "give a MODEL or --hyp F, and --output F.png or --json"),
        (("--hyp", hyp, "--json", "--edges", "4,4"), "--edges: '4,4' found; give ascending numbers of words"),
        (("--hyp", hyp, "--json", "--edges", "x"), "--edges: 'x' found"),
        (("--hyp", hyp, "--json", "--set", "search.beam_size=1"), "remove --set"),
        (("--hyp", hyp, "--output", tmp_path / "a.jpg"), "an image ends in .png"),
        (("--hyp", short, "--json"), f"9 lines in short.de, 10 in {ref}"),
        (("--hyp", "-", "--src", "-", "--json"), "stdin: cannot be two"),
    ):
        done = tmt_here(*texts, *wrong)
        assert done.status == 2 and reason in done.refusal and not done.stdout

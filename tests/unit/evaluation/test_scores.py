"""Scores against derivations by hand and against the formula of multi-bleu.perl; signatures; refusals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from harness import tmt_here
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.errors import InputError
from transformer_mt.evaluation import scores
from transformer_mt.evaluation.scores import (
    DOWNLOADED,
    MULTI_BLEU_LABEL,
    PAPERS,
    EvalReport,
    Interval,
    MetricScore,
    check_tokenizer,
    checked_tokenizer,
    default_tokenize,
    evaluate,
    sentence_scores,
)
from transformer_mt.system.lines import read_lines

HYP = ["The cat sat on the mat.", "A dog runs across a green field.", "Two men are talking.", "It is raining."]
REF = ["The cat sat on a red mat.", "A dog is running across a field.", "Two men talk.", "It rains again."]
REF_2 = ["A cat sat on the mat.", "The dog runs over a green field.", "Two men are speaking.", "It is raining hard."]
VERSION = f"version:{sacrebleu.__version__}"

words = st.sampled_from(["a", "b", "B", "c", "Ü", "ü", ".", "."])
sentences = st.lists(words, max_size=9).map(" ".join)
corpora = st.lists(st.tuples(sentences, sentences, sentences), min_size=1, max_size=6)


def only_score(report: EvalReport) -> MetricScore:
    (score,) = report.scores
    return score


def ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def multi_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], lower: bool = True) -> float:
    """The arithmetic of Moses' multi-bleu.perl, with -lc or without, written anew from its definition."""
    if lower:
        hypotheses = [line.lower() for line in hypotheses]
        references = [[line.lower() for line in stream] for stream in references]
    correct, total = [0] * 4, [0] * 4
    hyp_len = ref_len = 0
    for hypothesis, *refs in zip(hypotheses, *references, strict=True):
        hyp_tokens = hypothesis.split()
        refs_tokens = [ref.split() for ref in refs]
        hyp_len += len(hyp_tokens)
        ref_len += min((abs(len(ref) - len(hyp_tokens)), len(ref)) for ref in refs_tokens)[1]
        for n in range(1, 5):
            allowed: Counter[tuple[str, ...]] = Counter()
            for ref in refs_tokens:
                allowed |= ngrams(ref, n)
            correct[n - 1] += (ngrams(hyp_tokens, n) & allowed).total()
            total[n - 1] += ngrams(hyp_tokens, n).total()
    if 0 in correct:
        return 0.0
    brevity_penalty = 1.0 if hyp_len >= ref_len else math.exp(1 - ref_len / hyp_len)
    precisions = [c / t for c, t in zip(correct, total, strict=True)]
    return 100 * brevity_penalty * math.exp(sum(map(math.log, precisions)) / 4)


def test_identical_text_is_perfect() -> None:
    report = evaluate(REF, [REF], ("bleu", "chrf", "ter", "multi_bleu"))
    assert {score.name: score.score for score in report.scores} == pytest.approx(
        {"bleu": 100, "chrf": 100, "ter": 0, "multi_bleu": 100}
    )
    assert report.num_sentences == 4


@pytest.mark.parametrize("metric", ["bleu", "multi_bleu"])
def test_bleu_by_hand(metric: str) -> None:
    # Matches: the (clipped to 1), cat, sat, on, mat of 6; "the cat", "cat sat", "sat on" of 5;
    # "the cat sat", "cat sat on" of 4; "the cat sat on" of 3. Lengths 6 and 7.
    expected = 100 * math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    score = only_score(evaluate(["the cat sat on the mat"], [["the cat sat on a red mat"]], [metric]))
    assert score.score == pytest.approx(expected)
    assert score.details == "83.3/60.0/50.0/33.3 (BP = 0.846 ratio = 0.857 hyp_len = 6 ref_len = 7)"


def test_chrf_by_hand() -> None:
    # Single characters: 2 of 2, of 3 in the reference; pairs: 1 of 1, of 2; the hypothesis has no longer ones.
    precision, recall = 1, (2 / 3 + 1 / 2) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert evaluate(["ab"], [["abc"]], ["chrf"]).score("chrf") == pytest.approx(expected)


def test_ter_by_hand() -> None:
    # Delete b, insert e and f: 3 edits for 5 words. Shift "c d" behind "a b": 1 edit for 4 words.
    report = evaluate(["a b c d", "c d a b"], [["a c d e f", "a b c d"]], ["ter"])
    assert report.score("ter") == pytest.approx(100 * (3 + 1) / (5 + 4))


@given(corpora)
def test_multi_bleu_is_the_formula_of_the_script(corpus: list[tuple[str, str, str]]) -> None:
    hyp, *refs = map(list, zip(*corpus, strict=True))
    assert evaluate(hyp, refs, ["multi_bleu"]).score("multi_bleu") == pytest.approx(multi_bleu(hyp, refs))
    assert evaluate(hyp, refs[:1], ["multi_bleu"]).score("multi_bleu") == pytest.approx(multi_bleu(hyp, refs[:1]))


def test_multi_bleu_takes_the_tokens_as_given_and_bleu_does_not() -> None:
    attached, spaced = ["a b c d e."], ["a b c d e ."]
    assert evaluate(attached, [spaced], ["bleu"]).score("bleu") == pytest.approx(100)
    assert evaluate(attached, [spaced], ["multi_bleu"]).score("multi_bleu") < 100


def test_bleu_of_papers_is_that_of_tokens_by_hand() -> None:
    """As Moses' scripts write German: lower-cased, quotes normalised and then escaped; or with case, hyphens apart."""
    raw = ["Der Rich-Text-Modus, z.B. „A & B“.", "Geht's dem Arzt (Dr. Wu) gut?"]
    reference = ["Der Rich-Text-Modus, etwa „A & B“.", "Wie geht's dem Arzt (Dr. Wu)?"]
    lower = ["der rich-text-modus , z.b. &quot; a &amp; b &quot; .", "geht &apos; s dem arzt ( dr. wu ) gut ?"]
    lower_reference = [
        "der rich-text-modus , etwa &quot; a &amp; b &quot; .",
        "wie geht &apos; s dem arzt ( dr. wu ) ?",
    ]
    split = [
        "Der Rich ##AT##-##AT## Text ##AT##-##AT## Modus , z.B. „ A &amp; B “ .",
        "Geht &apos; s dem Arzt ( Dr. Wu ) gut ?",
    ]
    split_reference = [
        "Der Rich ##AT##-##AT## Text ##AT##-##AT## Modus , etwa „ A &amp; B “ .",
        "Wie geht &apos; s dem Arzt ( Dr. Wu ) ?",
    ]
    report = evaluate(raw, [reference], PAPERS, tgt_lang="de")
    assert report.score("bleu") == sacrebleu.corpus_bleu(raw, [reference]).score
    assert report.score("moses_bleu") == pytest.approx(multi_bleu(lower, [lower_reference]))
    assert report.score("compound_bleu") == pytest.approx(multi_bleu(split, [split_reference], lower=False))
    moses, compound = (score.signature for score in report.scores[1:])
    assert moses.startswith("nrefs:1|case:lc|eff:no|tok:moses-de.norm.sacremoses-")
    assert compound.startswith("nrefs:1|case:mixed|eff:no|tok:moses-de.atat.sacremoses-")
    assert len({score.label for score in report.scores}) == 3


@pytest.mark.skipif("TMT_DATA" not in os.environ, reason="TMT_DATA names no folder of real text")
def test_moses_bleu_is_multi_bleu_of_the_published_text() -> None:
    """Multi30k comes raw and as its authors have tokenised it: both give the same number, and papers' 12,103 tokens."""
    raw, published = (
        list(read_lines(Path(os.environ["TMT_DATA"], f"multi30k/test_2016_flickr{kind}.de.gz")))
        for kind in ("", ".lc.norm.tok")
    )
    [found] = evaluate([*raw[1:], "x"], [raw], ["moses_bleu"], tgt_lang="de").scores
    assert found.score == pytest.approx(multi_bleu([*published[1:], "x"], [published]))
    assert "ref_len = 12103)" in found.details


def test_bleu_of_papers_needs_a_language_and_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_text("Rich-text\n")
    command = ("eval", "--hyp", path, "--ref", path, "--papers")
    assert "moses_bleu: Moses' tokenisation is that of a language; give --tgt-lang" in tmt_here(*command).refusal
    lines = tmt_here(*command, "--tgt-lang", "de").ok().lines
    assert [line.partition("|")[0].partition(" (")[0] for line in lines] == [
        "BLEU",
        "BLEU of papers, lower-cased",
        "BLEU of papers, compounds split",
    ]
    found = json.loads(tmt_here(*command, "--tgt-lang", "de", "--json").ok().lines[0])
    assert [*found["metrics"]] == [*PAPERS]
    assert "--papers stands for --metrics" in tmt_here(*command, "--metrics", "bleu").refusal
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    assert "pip install 'transformer-mt[papers]'" in tmt_here(*command, "--tgt-lang", "de").refusal


def test_numbers_are_those_of_sacrebleu() -> None:
    report = evaluate(HYP, [REF, REF_2])
    assert report.score("bleu") == sacrebleu.corpus_bleu(HYP, [REF, REF_2]).score
    assert report.score("chrf") == sacrebleu.corpus_chrf(HYP, [REF, REF_2]).score
    assert report.score("ter") == sacrebleu.corpus_ter(HYP, [REF, REF_2]).score


def test_a_second_reference_counts() -> None:
    one, two = evaluate(HYP, [REF]), evaluate(HYP, [REF, REF_2])
    assert two.score("bleu") > one.score("bleu")
    assert two.score("ter") < one.score("ter")
    assert all(score.signature.startswith("nrefs:2|") for score in two.scores)


def test_signatures_say_how() -> None:
    signatures = {
        score.name: score.signature for score in evaluate(HYP, [REF], ("bleu", "chrf", "ter", "multi_bleu")).scores
    }
    assert signatures == {
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{VERSION}",
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{VERSION}",
        "ter": f"nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|{VERSION}",
        "multi_bleu": f"nrefs:1|case:lc|eff:no|tok:none|smooth:none|{VERSION}",
    }


def test_case_and_tokenizer_are_choices_that_the_signature_shows() -> None:
    upper = [line.upper() for line in REF]
    assert evaluate(upper, [REF], ("bleu", "chrf"), lowercase=True).score("bleu") == pytest.approx(100)
    assert evaluate(upper, [REF], ("bleu", "chrf"), lowercase=True).score("chrf") == pytest.approx(100)
    assert evaluate(upper, [REF], ["bleu"]).score("bleu") < 50
    score = only_score(evaluate(HYP, [REF], ["bleu"], tokenize="char", lowercase=True))
    assert score.signature == f"nrefs:1|case:lc|eff:no|tok:char|smooth:exp|{VERSION}"


def test_confidence_interval_contains_the_score() -> None:
    report = evaluate(HYP * 10, [REF * 10], ("bleu", "chrf", "ter", "multi_bleu"), confidence=True, num_bootstrap=200)
    for score in report.scores:
        assert score.interval is not None
        assert abs(score.score - score.interval.mean) < score.interval.half_width
        assert "|bs:200|seed:12345|" in score.signature
        assert f" (95%: {score.interval.mean:.2f} ± {score.interval.half_width:.2f})" in score.format()


def test_interval_of_equal_sentences_is_a_point() -> None:
    score = only_score(evaluate(["a b c d"] * 9, [["a c d e f"] * 9], ["ter"], confidence=True, num_bootstrap=50))
    assert score.interval == pytest.approx((60, 0))


def test_seed_decides_the_resamples_and_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval(seed: int) -> Interval | None:
        return only_score(evaluate(HYP, [REF], ["chrf"], confidence=True, num_bootstrap=20, seed=seed)).interval

    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    first = interval(1)
    assert "SACREBLEU_SEED" not in os.environ
    monkeypatch.setenv("SACREBLEU_SEED", "77")
    assert interval(1) == first
    assert interval(2) != first
    assert os.environ["SACREBLEU_SEED"] == "77"


def test_samples_without_a_match_have_an_interval() -> None:
    """sacreBLEU's own fails there: it cannot take the mean of a float and a float32."""
    found = only_score(evaluate(["abc", "xyz"], [["abc", "qqq"]], ["chrf"], confidence=True, num_bootstrap=40))
    assert found.interval is not None and 20 < found.interval.mean < 80 and found.interval.half_width == 50


def test_threads_have_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval(seed: int) -> Interval | None:
        return only_score(evaluate(HYP, [REF], ["chrf"], confidence=True, num_bootstrap=20, seed=seed)).interval

    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    seeds = [1, 2, 3, 4] * 4
    expected = [interval(seed) for seed in seeds]
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(interval, seeds)] == expected
    assert "SACREBLEU_SEED" not in os.environ


def test_a_models_tokenisation_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    for name in DOWNLOADED:
        with pytest.raises(InputError, match=f"^runs/theirs: its eval.tokenize is {name}, .* give --tokenize {name}"):
            checked_tokenizer(None, name, "runs/theirs")
    assert checked_tokenizer(None, "char", "runs/theirs") == "char"
    assert checked_tokenizer("char", "flores200", "runs/theirs") == "char"
    assert checked_tokenizer(None, None, "runs/theirs") is None


def test_no_interval_unless_asked() -> None:
    assert all(score.interval is None and "bs:" not in score.signature for score in evaluate(HYP, [REF]).scores)


def test_every_printed_number_has_its_signature() -> None:
    report = evaluate(HYP, [REF], ("bleu", "chrf", "ter"))
    for line, score in zip(report.format().splitlines(), report.scores, strict=True):
        assert line.startswith(f"{score.label}|{score.signature} = {score.score:.2f}")
    assert [score.label for score in report.scores] == ["BLEU", "chrF2", "TER"]


def test_multi_bleu_is_labelled_as_not_comparable() -> None:
    score = only_score(evaluate(["a b ."], [["a b ."]], ["multi_bleu"]))
    assert score.label == MULTI_BLEU_LABEL
    assert "not comparable with sacreBLEU" in score.format()


@pytest.mark.parametrize(
    ("metric", "hypothesis", "words"),
    [
        ("bleu", "A dog .", "look tokenised"),
        ("bleu", "A dog.", None),
        ("multi_bleu", "A dog .", None),
        ("multi_bleu", "A dog.", "do not look tokenised"),
        ("multi_bleu", "A dog", None),
        ("chrf", "A dog .", None),
    ],
)
def test_note_on_text_that_is_not_what_the_metric_needs(metric: str, hypothesis: str, words: str | None) -> None:
    score = only_score(evaluate([hypothesis] * 3, [["A dog."] * 3], [metric]))
    if words is None:
        assert score.note is None
    else:
        assert score.note is not None
        assert words in score.note
        assert score.format().endswith(f"\n  note: {score.note}")


def test_report_survives_json() -> None:
    report = evaluate(HYP, [REF], ("bleu", "ter"), confidence=True, num_bootstrap=20)
    found = json.loads(json.dumps(report.as_dict()))
    bleu = report.scores[0]
    assert bleu.interval is not None
    assert list(found["metrics"]) == ["bleu", "ter"]
    assert found["num_sentences"] == 4
    assert found["metrics"]["bleu"] == {
        "label": "BLEU",
        "score": bleu.score,
        "signature": bleu.signature,
        "interval": {"mean": bleu.interval.mean, "half_width": bleu.interval.half_width},
        "details": bleu.details,
        "note": None,
    }


def test_sentence_scores_are_those_of_sacrebleu() -> None:
    scores = sentence_scores(HYP, [REF, REF_2])
    for found, hypothesis, refs in zip(scores, HYP, zip(REF, REF_2, strict=True), strict=True):
        assert found == {
            "bleu": sacrebleu.sentence_bleu(hypothesis, refs).score,
            "chrf": sacrebleu.sentence_chrf(hypothesis, refs).score,
            "ter": sacrebleu.sentence_ter(hypothesis, refs).score,
        }


def test_short_sentence_can_be_perfect() -> None:
    # Two words have no 3-grams: only the orders that exist count.
    assert sentence_scores(["Hello World"], [["hello world"]], ["bleu", "multi_bleu"], lowercase=True) == [
        pytest.approx({"bleu": 100, "multi_bleu": 100})
    ]


def test_blank_lines_are_scored_as_they_are() -> None:
    report = evaluate(["", "a b c d"], [["a b c d", "a b c d"]], ("bleu", "ter"))
    assert report.score("bleu") == pytest.approx(100 * math.exp(1 - 8 / 4))
    assert report.score("ter") == pytest.approx(50)


@pytest.mark.parametrize(
    ("hypotheses", "references", "names", "message"),
    [
        (
            ["a"] * 999,
            [["a"] * 1000],
            None,
            "999 lines in hypotheses, 1,000 in references[0]: line 1,000 of references[0] is the first without",
        ),
        (
            ["a"] * 3,
            [["a"] * 3, ["a"]],
            ("hyp.txt", "ref.0", "ref.1"),
            "3 lines in hyp.txt, 1 in ref.1: line 2 of hyp.txt is the first without a partner",
        ),
        (
            ["a\rb\rc"],
            [["a"] * 3],
            ("hyp.txt", "ref.txt"),
            "1 line in hyp.txt, 3 in ref.txt: line 2 of ref.txt is the first without a partner; the lines of hyp.txt "
            "end as on old Macs, with a carriage return alone",
        ),
        ([], [["a"]], ("hyp.txt", "ref.txt"), "0 lines in hyp.txt, 1 in ref.txt: line 1 of ref.txt is the first"),
        ([], [[]], ("hyp.txt", "ref.txt"), "hyp.txt: no lines to score"),
        (["a"], [], ("hyp.txt",), "hyp.txt: no references"),
    ],
)
def test_streams_that_do_not_fit_are_refused(
    hypotheses: list[str], references: list[list[str]], names: Sequence[str] | None, message: str
) -> None:
    for score in (evaluate, sentence_scores):
        with pytest.raises(InputError) as refusal:
            score(hypotheses, references, names=names)
        assert str(refusal.value).startswith(message)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("0 ||| {} ||| -0.5", "||| between fields"),
        ('{{"text": "{}"}}', "JSON around them"),
        ("H-0\t-0.5\t{}", "tabs between fields"),
        ('<seg id="1">{}</seg>', "tags around them"),
        ("Kat@@ ze {}", "pieces for words"),
        ("▁{}", "pieces for words"),
        ('"{}"', "quotes around them"),
    ],
)
def test_what_is_more_than_translations_is_told(form: str, words: str) -> None:
    text = [f"ein Hund mit {i} Beinen" for i in range(10)]
    scored = [form.format(line) for line in text]
    [note] = evaluate(scored, [text], ["chrf"]).notes
    assert note.startswith(f"most of the hypotheses have {words}")
    assert not evaluate(scored, [scored], ["chrf"]).notes
    assert not evaluate([*text[:5], *scored[5:]], [text], ["chrf"]).notes


@pytest.mark.parametrize(
    ("metrics", "tokenize", "message"),
    [
        (["blue"], None, "unknown metric 'blue', nearest is 'bleu'; choose from bleu, chrf, chrf++, ter,"),
        (["bleu", "CHRF"], None, "unknown metric 'CHRF', nearest is 'chrf'"),
        ([""], None, "unknown metric ''"),
        ([], None, "no metric asked for"),
        (["bleu"], "13", "unknown tokenizer '13', nearest is '13a'; choose from none, zh, 13a"),
    ],
)
def test_unknown_choices_are_refused_with_the_nearest(metrics: list[str], tokenize: str | None, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        evaluate(HYP, [REF], metrics, tokenize=tokenize)
    assert str(refusal.value).startswith(message)


def test_tokenizer_without_its_package_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(InputError) as refusal:
        evaluate(HYP, [REF], ["bleu"], tokenize="ja-mecab")
    assert str(refusal.value).startswith("tokenizer 'ja-mecab' cannot be used: ")
    assert str(refusal.value).endswith("pip install sacrebleu[ja]")


def test_one_resample_is_no_interval() -> None:
    with pytest.raises(InputError, match="num_bootstrap is 1"):
        evaluate(HYP, [REF], confidence=True, num_bootstrap=1)


def test_importing_the_module_does_not_import_sacrebleu() -> None:
    code = "import sys, transformer_mt.evaluation.scores; sys.exit('sacrebleu' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


ZH_REF = ["今天天气很好，我们去公园散步。", "他昨天买了一本新书。", "这家餐厅的菜非常好吃。"]
ZH_HYP = ["今天天气很好，我们公园散步。", "他昨天买了一本书。", "这家餐厅的菜非常好。"]
JA, TH = ["猫が好きです。今日は暑い。"], ["วันนี้อากาศดีมาก เราไปเดินเล่น"]


def missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{name}.MeCab", None, raising=False)
    monkeypatch.setitem(sys.modules, f"sacrebleu.tokenizers.tokenizer_{name}", None)


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        ("zh zh-TW zho_Hans cmn yue ZH", "zh"),
        ("th lo km my bo tha lao_Laoo khm_Khmr mya_Mymr", "char"),
        ("de en fr ru ar hi vi tr he", "13a"),
        ("src x", "13a"),
        ("ja jpn_Jpan ko kor_Hang", "char"),
    ],
)
def test_default_tokenisation_follows_the_language(
    monkeypatch: pytest.MonkeyPatch, languages: str, expected: str
) -> None:
    for package in ("ja_mecab", "ko_mecab"):
        missing(monkeypatch, package)
    assert {default_tokenize(language) for language in languages.split()} == {expected}
    assert default_tokenize(None) == "13a"


def test_mecab_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.evaluation.scores.check_tokenizer", lambda name: None)
    assert [default_tokenize(language) for language in ("ja", "ko-KR")] == ["ja-mecab", "ko-mecab"]


@pytest.mark.parametrize("how", [{"tgt_lang": "zh"}, {"tokenize": "zh"}])
def test_chinese_is_cut_into_characters(how: dict[str, str]) -> None:
    report = evaluate(ZH_HYP, [ZH_REF], **how)  # type: ignore[arg-type]
    assert report.score("bleu") == pytest.approx(sacrebleu.corpus_bleu(ZH_HYP, [ZH_REF], tokenize="zh").score)
    assert report.score("bleu") > 70
    ter = report.scores[2]
    expected = sacrebleu.TER(normalized=True, asian_support=True).corpus_score(ZH_HYP, [ZH_REF])
    assert ter.score == expected.score < 20
    assert "norm:yes" in ter.signature and "asian:yes" in ter.signature
    assert not report.notes
    rows = sentence_scores(ZH_HYP, [ZH_REF], **how)  # type: ignore[arg-type]
    assert all(row["bleu"] > 50 and row["ter"] < 20 for row in rows)


@pytest.mark.parametrize("text", [ZH_REF, JA, TH])
def test_text_without_spaces_is_told_where_words_are_needed(text: list[str]) -> None:
    notes: list[str] = []
    sentence_scores(text, [text], warn=notes.append)
    assert list(evaluate(text, [text]).notes) == notes
    assert [note.split(":")[0] for note in notes] == ["bleu", "ter"]
    assert "no spaces between words" in notes[0] and "--tgt-lang" in notes[0]
    [note] = evaluate(text, [text], ["multi_bleu"]).notes
    assert note.startswith("multi_bleu: the references have no spaces")


@pytest.mark.parametrize(
    "text", [REF, ["我 爱 你 。 他 不 来 。"], ["나는 학교에 간다."], ["NATO 北约 is a treaty."], [""]]
)
def test_text_with_spaces_is_not(text: list[str]) -> None:
    assert not evaluate(text, [text]).notes


def test_blank_reference_among_others_is_left_out_and_counted() -> None:
    hyp, one, blank = ["a b c d e", "f g h i j"], ["a b c d x", "f g h i j"], ["a b c d e", " "]
    report = evaluate(hyp, [one, blank])
    assert report.notes == ("references: 1 of 4 are blank where another is not, and left out",)
    ter = (0 + 0) / (5 + 5)  # not 5 + 5 / 2 words
    assert report.score("ter") == pytest.approx(100 * ter)
    assert "nrefs:var" in report.scores[0].signature
    assert sentence_scores(hyp, [one, blank])[1] == sentence_scores(hyp[1:], [one[1:]])[0]
    # Of the only reference there is nothing to leave out; nor is a blank translation of a blank line worth a word.
    assert "1 of 2 lines have a translation but only blank references" in evaluate(hyp, [["a", ""]]).notes[0]
    assert not evaluate(["a", ""], [["a", ""], ["a", ""]]).notes


def test_ter_of_very_long_lines_only_where_it_is_asked_for() -> None:
    long = " ".join(map(str, range(900)))
    report = evaluate([long], [[long]])
    assert [score.name for score in report.scores] == ["bleu", "chrf"]
    assert report.notes == ("ter: left out, lines of up to 900 words would take it minutes; ask for it in the metrics",)
    assert evaluate([long], [[long]], ["ter"]).score("ter") == 0
    unspaced = "".join(chr(0x4E00 + i) for i in range(900))
    assert list(sentence_scores([unspaced], [[unspaced]], tgt_lang="zh")[0]) == ["bleu", "chrf"]
    assert evaluate(HYP * 500, [REF * 500]).scores[-1].name == "ter"  # many short ones are no reason


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ("a dog", ["a dog"], "hypotheses: a string"),
        (["a dog"], "a dog", "references: a string"),
        (["a dog"], ["a dog"], r"references\[0\]: a string"),
        ("", [[]], "hypotheses: a string"),
    ],
)
def test_string_for_a_list_is_refused(hypotheses: Any, references: Any, message: str) -> None:
    for score in (evaluate, sentence_scores):
        with pytest.raises(InputError, match=message):
            score(hypotheses, references)
        with pytest.raises(InputError, match="metrics: 'bleu' is one string"):
            score(HYP, [REF], "bleu")


@pytest.mark.parametrize("error", [OSError("<urlopen error>"), SystemExit(1)])
def test_download_that_fails_is_told_as_one(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("sacrebleu.BLEU", type("BLEU", (), {"__init__": fails, "TOKENIZERS": ["flores200"]}))
    with pytest.raises(InputError, match="'flores200': sacreBLEU downloads its model at first use, which failed"):
        check_tokenizer("flores200")


def test_sacrebleu_is_asked_by_the_names_that_it_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Bleu:
        TOKENIZERS = ("spm", "flores101")

        def __init__(self, tokenize: str, **_: object) -> None:
            asked.append(tokenize)

    monkeypatch.setattr("sacrebleu.BLEU", Bleu)
    check_tokenizer("spm")
    assert asked == ["flores101"]


def test_command_line_tells_what_it_was_given(tmp_path: Path) -> None:
    hyp, ref = tmp_path / "h.zh", tmp_path / "r.zh"
    hyp.write_text("".join(f"{line}\n" for line in ZH_HYP))
    ref.write_text("".join(f"{line}\n" for line in ZH_REF))
    files = ("--hyp", hyp, "--ref", ref)
    done = tmt_here("eval", *files, "--metrics", "bleu, chrf").ok()
    assert [line.split("|")[0] for line in done.lines] == ["BLEU", "chrF2"]
    assert "warning: bleu: the references have no spaces between words" in done.stderr
    done = tmt_here("eval", *files, "--tgt-lang", "zh", "--json").ok()
    assert json.loads(done.stdout)["metrics"]["bleu"]["score"] > 70
    assert not done.stderr
    assert "warning: bleu: the references" in tmt_here("eval", *files, "--sentence").ok().stderr
    for more, words in {
        (str(hyp),): f"beside --hyp, {hyp} is taken for a MODEL; give one of the two, and a --ref for each",
        ("--set", "search.beam_size=2"): "remove --set",
        ("--sentence", "--json"): "--json has no effect beside --sentence",
        ("--sentence", "--confidence"): "--confidence has no effect beside --sentence",
    }.items():
        refused = tmt_here("eval", *files, *more)
        assert refused.status == 2
        assert words in refused.refusal

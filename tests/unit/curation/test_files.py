"""Files that cleaning and splitting write: every pair is where it belongs, in order, once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from harness import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transformer_mt.config.data_sections import CleanConfig, DataConfig, SourceConfig
from transformer_mt.config.loading import load_config
from transformer_mt.curation.clean import clean_corpus
from transformer_mt.curation.common import named_sources
from transformer_mt.curation.split import split_corpus
from transformer_mt.data.cleaning import clean
from transformer_mt.data.duplicate_keys import duplicate_key, text_key
from transformer_mt.data.pairs import read_chunks
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.lines import read_lines

Pair = tuple[str, str]

pytestmark = pytest.mark.usefixtures("_small_chunks")
slow_examples = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def _small_chunks() -> Iterator[None]:
    """Several to a source, in this process."""
    with (
        patch("transformer_mt.system.processes.num_cores", return_value=1),
        patch("transformer_mt.data.pairs.CHUNK_PAIRS", 3),
    ):
        yield


def corpus(directory: Path, *sources: Sequence[Pair], **settings: object) -> DataConfig:
    train = []
    for number, pairs in enumerate(sources):
        src = write(directory / f"in{number}.en", [src for src, _ in pairs])
        tgt = write(directory / f"in{number}.ko", [tgt for _, tgt in pairs])
        train.append(SourceConfig(src=str(src), tgt=str(tgt)))
    values = {"src_lang": "en", "tgt_lang": "ko", "cache_dir": str(directory / "cache"), "train": tuple(train)}
    return DataConfig(**{**values, **settings})  # type: ignore[arg-type]


def lines_of(directory: Path, stem: str, suffix: str = "") -> list[Pair]:
    if not (directory / f"{stem}.en{suffix}").exists():
        return []
    sides = [list(read_lines(directory / f"{stem}.{lang}{suffix}")) for lang in ("en", "ko")]
    return list(zip(*sides, strict=True))


texts = st.lists(st.sampled_from(["a", "A", "b", "가", "나", "!", " ", "7"]), max_size=5).map("".join)
pair_lists = st.lists(st.tuples(texts, texts), max_size=12)
rule_sets = st.builds(
    CleanConfig,
    drop_identical=st.booleans(),
    max_chars=st.none() | st.integers(2, 5),
    max_char_ratio=st.none() | st.just(2.0),
    duplicates=st.sampled_from(["keep", "exact", "near"]),
)


@slow_examples
@given(pair_lists, pair_lists, rule_sets)
def test_what_is_written_is_what_rules_keep(
    tmp_path: Path, first: list[Pair], second: list[Pair], rules: CleanConfig
) -> None:
    """By reason, in order, from both sources, and the inputs stay."""
    data, output = corpus(tmp_path, first, second, clean=rules), tmp_path / "out"
    expected: list[list[Pair]] = [[], []]
    reasons: Counter[str] = Counter()
    seen: set[int] = set()
    for kept, pairs in zip(expected, (first, second), strict=True):
        for raw in pairs:
            pair, reason = clean(SentencePair(*raw), rules, "en", "ko")
            if rules.duplicates != "keep":
                key = duplicate_key(pair, rules.duplicates)
                if reason is None and key in seen:
                    reason = "near_duplicate" if rules.duplicates == "near" else "duplicate"
                seen.add(key)
            if reason is None:
                kept.append(pair)
            else:
                reasons[reason] += 1
    if not any(expected):
        why = "no sentence pair is left after cleaning .*; " + ("" if first or second else "there are none in its sou")
        with pytest.raises(InputError, match=why):
            clean_corpus(data, output, "")
        return
    report = clean_corpus(data, output, "")
    assert [lines_of(output, "train.0"), lines_of(output, "train.1")] == expected
    assert (report.kept, report.rejected) == (sum(map(len, expected)), reasons)
    stored = json.loads((output / "report.json").read_text())
    assert stored["pairs"] == stored["kept"] + sum(stored["rejected"].values()) == len(first) + len(second)
    assert stored["sources"]["train.1"]["kept"] == len(expected[1])
    assert [lines_of(tmp_path, "in0"), lines_of(tmp_path, "in1")] == [first, second]
    # What is left passes once more.
    again = load_config(output / "data.yaml").data
    assert [pair for source in again.train for pair in read_pairs(source, "en", "ko")] == expected[0] + expected[1]
    assert clean_corpus(again, tmp_path / "again", "").rejected == {}


def test_reports_tell_places_and_text(tmp_path: Path) -> None:
    data = corpus(tmp_path, [("a", "가")], [("b", "나"), ("`<b>`| *x*", "!" * 50)], clean=CleanConfig(max_char_ratio=3))
    clean_corpus(data, tmp_path / "out", "")
    stored = json.loads((tmp_path / "out/report.json").read_text())
    example = {"place": "train.1, line 2", "source": "`<b>`| *x*", "target": "!" * 50}
    assert stored["examples"] == {"length_ratio": [example]}
    text = (tmp_path / "out/report.md").read_text()
    assert f"## length_ratio: 1 (33.3 %) pairs\n\ntrain.1, line 2:\n\n    `<b>`| *x*\n    {'!' * 50}\n" in text


def test_cleaned_sources_keep_what_they_are(tmp_path: Path) -> None:
    data = corpus(tmp_path, [("a", "가")] * 2, clean=CleanConfig(duplicates="exact", max_chars=None))
    named = data.train[0].model_copy(update={"name": "news", "weight": 2.5, "tag": "web", "tgt_lang": "de"})
    clean_corpus(data.model_copy(update={"train": (named,), "temperature": None}), tmp_path / "out", ".gz")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("news.en.gz", "news.de.gz", "report.json", "report.md", "data.yaml", "export.json")
    }
    again = load_config(tmp_path / "out/data.yaml").data
    files = {"src": str(tmp_path / "out/news.en.gz"), "tgt": str(tmp_path / "out/news.de.gz")}
    assert again.train == (
        SourceConfig.model_validate({**files, "name": "news", "weight": 2.5, "tag": "web", "tgt_lang": "de"}),
    )
    assert again.clean == CleanConfig(max_chars=None)  # repeats need not be looked for again
    assert again.cache_dir == data.cache_dir


def test_lists_of_files_are_cleaned_without_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Pydantic warned of the list that it had made of them itself."""
    for number in (1, 2):
        (tmp_path / f"{number}.tsv").write_text(f"dog {number}\tHund {number}\n")
    files = SourceConfig.model_validate({"tsv": [str(tmp_path / "1.tsv"), str(tmp_path / "2*.tsv")]})
    data = corpus(tmp_path, [("a", "b")]).model_copy(update={"train": (files,)})
    clean_corpus(data, tmp_path / "out", "")
    assert lines_of(tmp_path / "out", "train.0") == [("dog 1", "Hund 1"), ("dog 2", "Hund 2")] and not recwarn.list


@pytest.mark.parametrize("name", ["a/b", "..", "train.1"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    data = corpus(tmp_path, [("a", "가")], [("b", "나")])
    named = data.train[0].model_copy(update={"name": name})
    with pytest.raises(InputError, match="file's name" if "/" in name else "two files would be called|file's name"):
        if name == "..":
            clean_corpus(data.model_copy(update={"train": (named,), "src_lang": "x/../y"}), tmp_path / "out", "")
        clean_corpus(data.model_copy(update={"train": (named, data.train[1])}), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_one_language_on_both_sides_is_refused(tmp_path: Path) -> None:
    data = corpus(tmp_path, [("a", "b")], tgt_lang="en")
    with pytest.raises(InputError, match=r"two files would be called train\.0\.en"):
        clean_corpus(data, tmp_path / "out", "")


def test_other_files_and_the_input_are_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, output = corpus(tmp_path, [("a", "가")]), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, Path()):
        with pytest.raises(InputError, match="is read from there; choose another --output"):
            clean_corpus(data, place, "")
    output.mkdir()
    (output / "mine").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        clean_corpus(data, output, "")
    assert [path.name for path in output.iterdir()] == ["mine"]
    (output / "mine").unlink()
    for _ in range(2):  # its own result is replaced
        clean_corpus(data, output, "")
    with pytest.raises(InputError, match="is read from there"):
        clean_corpus(load_config(output / "data.yaml").data, output, "")
    assert lines_of(output, "train.0") == [("a", "가")]


@pytest.mark.parametrize("command", ["clean", "split"])
def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, command: str) -> None:
    data = corpus(tmp_path, [("a", "가"), ("b", "나"), ("c", "다"), ("d", "라")], clean=CleanConfig(duplicates="near"))
    (tmp_path / "in0.ko").open("a").write("too many\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="has 4 lines"):
        if command == "clean":
            clean_corpus(data, tmp_path / "out", "")
        else:
            split_corpus(data, tmp_path / "out", 1, 1, 1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "cache"])
    assert list((tmp_path / "cache").iterdir()) == []


def sides(pair: Pair) -> set[int]:
    return {text_key(side, "near") for side in pair}


def can_be_held_out(pair: Pair, others: Sequence[Pair]) -> bool:
    own = sides(pair)
    return len(own) == 2 and all(side.strip() for side in pair) and all(own.isdisjoint(sides(one)) for one in others)


words = st.lists(st.sampled_from(["a", "B", "cd", "가", "나다", "!", "e", "f"]), max_size=5).map(" ".join)
word_lists = st.lists(st.tuples(words, words), max_size=14)


@slow_examples
@given(word_lists, word_lists, st.integers(0, 3), st.integers(0, 3), st.integers(0, 10**6))
def test_a_split_is_a_partition_without_leaks(
    tmp_path: Path, first: list[Pair], second: list[Pair], num_valid: int, num_test: int, seed: int
) -> None:
    pairs = first + second
    unique = [pair for i, pair in enumerate(pairs) if can_be_held_out(pair, pairs[:i] + pairs[i + 1 :])]
    data, output = corpus(tmp_path, first, second), tmp_path / "out"
    if not pairs:
        with pytest.raises(InputError, match=r"data\.train: empty, no sentence pairs"):
            split_corpus(data, output, num_valid, num_test, seed, "")
        return
    if num_valid + num_test > len(unique):
        with pytest.raises(InputError, match=f"only {len(unique)} pairs have sides that occur in no other pair"):
            split_corpus(data, output, num_valid, num_test, seed, "")
        return
    report = split_corpus(data, output, num_valid, num_test, seed, "")
    parts = {part: [lines_of(output, f"{part}.{number}") for number in (0, 1)] for part in ("train", "valid", "test")}
    train, valid, test = (both[0] + both[1] for both in parts.values())
    assert (len(valid), len(test)) == (num_valid, num_test)
    assert report.counts == {"train": len(train), "valid": num_valid, "test": num_test}
    assert report.num_unique == len(unique)
    held_out = valid + test
    assert len(set(held_out)) == len(held_out) and set(held_out) <= set(unique)
    # Each source is its three parts, each in order: unique pairs tell where they were.
    for number, source in enumerate((first, second)):
        here = {part: set(both[number]) for part, both in parts.items()}
        assert parts["train"][number] == [pair for pair in source if pair not in here["valid"] | here["test"]]
        for part in ("valid", "test"):
            assert parts[part][number] == [pair for pair in source if pair in here[part]]
    # No side of one part occurs in another, in any form.
    for one, other in ((train, valid), (train, test), (valid, test)):
        assert {key for pair in one for key in sides(pair)}.isdisjoint(key for pair in other for key in sides(pair))


def test_a_split_is_drawn_by_its_seed(tmp_path: Path) -> None:
    data = corpus(tmp_path, [(f"word {'x' * i}", f"단어 {'가' * i}") for i in range(1, 60)])
    drawn = []
    for seed in (1, 1, 2):
        split_corpus(data, tmp_path / "out", 5, 5, seed, "")
        drawn.append([lines_of(tmp_path / "out", part) for part in ("valid", "test")])
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_unique_pair_is_drawn_as_often_as_the_others(tmp_path: Path) -> None:
    data = corpus(tmp_path, [("a", "가"), ("b", "나"), ("a!", "다"), ("c", "라"), ("", "마"), ("d", "d")])
    found: Counter[Pair] = Counter()
    for seed in range(24):
        split_corpus(data, tmp_path / "out", 1, 0, seed, "")
        found.update(lines_of(tmp_path / "out", "valid"))
    assert found.keys() == {("b", "나"), ("c", "라")}
    assert min(found.values()) >= 3  # of 24; less has a probability of 0.0001


def test_a_split_is_a_configuration(tmp_path: Path) -> None:
    data = corpus(tmp_path, [("a", "가"), ("b", "나"), ("c", "다")], clean=CleanConfig(max_chars=70))
    named = data.train[0].model_copy(update={"name": "news", "tag": "web"})
    data = data.model_copy(update={"train": (named,)})
    assert split_corpus(data, tmp_path / "out", 1, 1, 1, ".gz").summary() == (
        "3 pairs: 1 train, 1 valid, 1 test; 3 could have been held out"
    )
    again = load_config(tmp_path / "out/data.yaml").data
    for part in ("train", "valid", "test"):
        files = {"src": str(tmp_path / f"out/{part}.en.gz"), "tgt": str(tmp_path / f"out/{part}.ko.gz")}
        assert getattr(again, part) == (SourceConfig.model_validate({**files, "name": "news", "tag": "web"}),)
    assert again.clean == data.clean
    with pytest.raises(InputError, match="is read from there"):
        split_corpus(again, tmp_path / "out", 0, 0, 1, "")


@given(st.lists(st.text("ab", max_size=30), max_size=20))
def test_chunks_are_bounded_and_lose_nothing(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    directory = tmp_path_factory.mktemp("chunks")
    data = corpus(directory, [(line, line) for line in lines], [("z", "z")])
    counts: list[int] = []
    with patch("transformer_mt.data.pairs._CHUNK_CHARACTERS", 40):
        found = list(read_chunks(named_sources(data, "train"), "reading", counts))
    assert counts == [len(lines), 1]
    assert [line for chunk in found for line in chunk.src] == [*lines, "z"]
    assert [chunk.first for chunk in found] == [sum(len(one.src) for one in found[:i]) for i in range(len(found))]
    assert all(len(chunk.src) <= 3 and sum(map(len, chunk.src[:-1])) * 2 < 40 for chunk in found)


def test_a_line_that_is_too_long_to_be_read_is_in_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.readers.sources.LONGEST_LINE", 100)
    data = corpus(tmp_path, [("a", "가"), ("x" * 101, "나"), ("c", "다")])
    with pytest.raises(InputError, match="only 2 pairs"):
        split_corpus(data, tmp_path / "out", 2, 1, 1, "")
    assert split_corpus(data, tmp_path / "out", 1, 0, 1, "").summary() == (
        "3 pairs: 1 train, 1 valid, 0 test, 1 left out (a line of more than 4 MiB); 2 could have been held out"
    )
    assert {*lines_of(tmp_path / "out", "train"), *lines_of(tmp_path / "out", "valid")} == {("a", "가"), ("c", "다")}


@pytest.mark.parametrize("command", ["clean", "split"])
def test_what_is_left_is_a_configuration_or_refused(command: str, tmp_path: Path) -> None:
    """Of the second source nothing is left, as all of it is blank or held out."""
    gone = [("", "")] if command == "clean" else [("only here", "하나")]
    data = corpus(tmp_path, [("a dog", "개"), ("a dog", "개"), ("cats", "고양이")], gone)
    train = [
        source.model_copy(update={"name": name, **more})
        for source, name, more in zip(data.train, "ab", ({}, {"src_lang": "xx"}), strict=True)
    ]

    def made(name: str, **settings: object) -> DataConfig:
        values = {**data.model_dump(exclude_unset=True), "train": [one.model_dump(exclude_unset=True) for one in train]}
        given = DataConfig(**{**values, **settings})
        if command == "clean":
            clean_corpus(given, tmp_path / name, "")
        else:  # of the unique pairs that with seed 0 is the second source's
            split_corpus(given, tmp_path / name, 1, 0, 0, "")
        path = tmp_path / f"{name}.yaml"
        path.write_text((tmp_path / name / "data.yaml").read_text())
        return load_config(path).data

    left = made("scripts", clean={"scripts": {"en": ["Latin"], "xx": ["Latin"]}})
    assert len(left.train) == 1 and [*left.clean.scripts] == ["en"]
    stages = [{"steps": 2, "weights": {"a": 1, "b": 1}}, {"weights": {"a": 1, "b": 0}}]
    assert [stage.weights for stage in made("stages", stages=stages).stages] == [{"a": 1}, {"a": 1}]
    with pytest.raises(InputError, match=r"what is left makes no configuration \(.*\); change data\.stages or weights"):
        made("nothing", stages=[{"steps": 2, "weights": {"a": 0, "b": 1}}, {"weights": {"a": 1, "b": 0}}])
    assert not (tmp_path / "nothing").exists()

"""From text to the id store: sources, refusals, counts, shards, the cache, and Hugging Face data sets."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from transformer_mt.config.data_sections import CleanConfig, DataConfig, SourceConfig
from transformer_mt.config.sections import BatchConfig
from transformer_mt.data import epochs, preparing
from transformer_mt.data.batching import plan_windows
from transformer_mt.data.cache_keys import content_hash
from transformer_mt.data.checksums import Checksums, damage
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.preparing import prepare
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.store import IdStore, write_side
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.lines import write_lines
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.toy_corpus import grammar

PAIRS = list(grammar.generate("train", 60, seed=7))  # longest side far below every default limit
EOS = 3

Prepare = Callable[..., IdStore]


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no cache but this test's own: `datasets` reads its environment once, so its values are set."""
    import datasets

    home = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def prepared(cache: Path, tokenizers: Tokenizers) -> Prepare:
    """`prepare` of sources, each given as its settings."""

    def prepared(
        *sources: dict[str, Any],
        clean: CleanConfig = CleanConfig(),  # noqa: B008
        batch: BatchConfig = BatchConfig(),  # noqa: B008
        tokenizers: Any = tokenizers,
    ) -> IdStore:
        data = DataConfig(
            src_lang="en",
            tgt_lang="de",
            train=tuple(SourceConfig(**source) for source in sources),
            clean=clean,
            cache_dir=str(cache),
        )
        return prepare(data, batch, tokenizers)

    return prepared


def text_files(directory: Path, pairs: list[tuple[str, str]], suffix: str = "") -> dict[str, Any]:
    """Write pairs as two files; return the settings of that source."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [str(directory / f"text.{lang}{suffix}") for lang in ("en", "de")]
    for path, side in zip(paths, zip(*pairs, strict=True) if pairs else ((), ()), strict=True):
        write_lines(path, side)
    return dict(zip(("src", "tgt"), paths, strict=True))


def ids_of(store: IdStore) -> list[tuple[list[int], list[int]]]:
    everything = np.arange(len(store))
    sides = [[ids.tolist() for ids in store.get(side, everything)] for side in ("src", "tgt")]
    return list(zip(*sides, strict=True))


def expected_ids(tokenizers: Tokenizers, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Each text by itself, and </s>."""
    return [([*tokenizers.src.encode([s])[0], EOS], [*tokenizers.tgt.encode([t])[0], EOS]) for s, t in pairs]


def counts(store: IdStore) -> CleanReport:
    """Without the examples."""
    return dataclasses.replace(store.report, examples={})


def stores(cache: Path) -> list[Path]:
    return (
        sorted(path for path in cache.iterdir() if path.name != "hashes" and path.suffix != ".lock")
        if cache.exists()
        else []
    )


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pairs_of_files_are_what_the_lines_say(suffix: str, tmp_path: Path) -> None:
    pairs = [("a dog", "ein Hund"), ("", "x"), (" \u2028 ", "ß\x85"), ("last", "letzter")]
    source = SourceConfig(**text_files(tmp_path, pairs, suffix))
    assert list(read_pairs(source, "en", "de")) == pairs


def test_no_tokenizer_learns_from_what_stands_for_a_long_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_mt.data.readers.sources.LONGEST_LINE", 100)
    source = SourceConfig(**text_files(tmp_path, [("a", "b"), ("x" * 101, "c"), ("d", "e")]))
    data = DataConfig(src_lang="en", tgt_lang="de", train=(source,))
    assert list(preparing.training_pairs(data)) == [("a", "b"), ("d", "e")]


def test_builtin_grammar_is_a_source() -> None:
    source = SourceConfig(builtin="grammar", split="valid", num_pairs=20, seed=5)
    assert list(read_pairs(source, "en", "de")) == list(grammar.generate("valid", 20, 5))
    other = SourceConfig(builtin="grammar", split="valid", num_pairs=20)
    assert list(read_pairs(other, "en", "de")) == list(grammar.generate("valid", 20, 1))


@pytest.mark.parametrize("longer", ["src", "tgt"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_unequal_counts_name_both_and_the_first_line_alone(longer: str, suffix: str, tmp_path: Path) -> None:
    source = text_files(tmp_path, [("a", "b")] * 1200, suffix)
    write_lines(source[longer], ["a"] * 2345)
    shorter = source["tgt" if longer == "src" else "src"]
    with pytest.raises(InputError) as caught:
        list(read_pairs(SourceConfig(**source), "en", "de"))
    assert str(caught.value) == (
        f"{shorter} has 1,200 lines, {source[longer]} 2,345; line 1,201 of {source[longer]} is the first "
        "without a partner: line i of one file must belong to line i of the other"
    )


@pytest.mark.parametrize("more", [["", " "], ["\x1a"]])
def test_blank_lines_at_the_end_of_one_side_are_told(more: list[str], tmp_path: Path) -> None:
    source = text_files(tmp_path, [("a", "b")] * 3)
    write_lines(source["src"], ["a"] * 3 + more)
    with pytest.raises(
        InputError, match=r"without a partner: from there on .*text.en is blank; remove the blank lines"
    ):
        list(read_pairs(SourceConfig(**source), "en", "de"))


def test_a_side_with_line_ends_of_old_macs_is_told(tmp_path: Path) -> None:
    source = text_files(tmp_path, [("a", "b"), ("c", "d")])
    Path(source["src"]).write_bytes(b"a\rc\r")
    with pytest.raises(
        InputError, match=r"without a partner: the lines of .* end as on old Macs.*; give them line fee"
    ):
        list(read_pairs(SourceConfig(**source), "en", "de"))


def test_one_empty_file_has_no_partner_for_line_1(tmp_path: Path) -> None:
    source = text_files(tmp_path, [("a", "b"), ("c", "d")])
    write_lines(source["src"], [])
    with pytest.raises(InputError, match=r"text\.en has 0 lines, .*text\.de 2; line 1 of .*text\.de is the first"):
        list(read_pairs(SourceConfig(**source), "en", "de"))


# ---------------------------------------------------------------- the store


def test_store_is_the_tokenised_text(prepared: Prepare, tokenizers: Tokenizers, tmp_path: Path) -> None:
    store = prepared(text_files(tmp_path, [(f"  {src}\t", f"{tgt} ") for src, tgt in PAIRS]))
    expected = expected_ids(tokenizers, PAIRS)
    assert len(store) == len(PAIRS)
    assert ids_of(store) == expected
    assert store.lengths("src").tolist() == [len(src) for src, _ in expected]
    assert store.lengths("tgt").tolist() == [len(tgt) for _, tgt in expected]
    assert store.lengths("src").dtype == np.int32
    some = np.array([59, 0, 0, 17])  # in any order, also twice
    assert [ids.tolist() for ids in store.get("tgt", some)] == [expected[i][1] for i in some]
    assert store.get("src", some)[0].dtype == np.uint16
    assert counts(store) == CleanReport(kept=60, rejected={})
    assert len(store.fingerprint) == 16


def test_sources_follow_each_other_and_pairs_know_where_they_are_from(
    prepared: Prepare, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    one = text_files(tmp_path / "one", [PAIRS[0], ("", "leer"), PAIRS[1]])
    two = text_files(tmp_path / "two", [("blank", " "), PAIRS[2]], ".gz")
    store = prepared(one, two, {"builtin": "grammar", "split": "train", "num_pairs": 2, "seed": 9})
    assert ids_of(store) == expected_ids(tokenizers, [*PAIRS[:3], *grammar.generate("train", 2, 9)])
    assert [store.describe(pair) for pair in range(5)] == [
        f"{one['src']} + {one['tgt']}, line 1",
        f"{one['src']} + {one['tgt']}, line 3",
        f"{two['src']} + {two['tgt']}, line 2",
        "builtin grammar[train], 2 pairs, line 1",
        "builtin grammar[train], 2 pairs, line 2",
    ]
    assert counts(store) == CleanReport(kept=5, rejected={"empty": 2})


class OnePieceAWord:
    """Stands for a tokenizer whose lengths are plain to see, with a vocabulary of any size."""

    def __init__(self, vocab_size: int = 100) -> None:
        self.vocab_size = vocab_size

    def encode(self, texts: list[str], num_threads: int = 1) -> list[list[int]]:
        return [[self.vocab_size - 1] * len(text.split()) for text in texts]


class PlainLengths:
    fingerprint = "one piece a word"

    def tag_ids(self, tgt_lang: str, tag: str | None) -> list[int]:
        return [] if tag is None else [90]

    def __init__(self, src_vocab_size: int = 100, tgt_vocab_size: int = 100) -> None:
        self.src, self.tgt = OnePieceAWord(src_vocab_size), OnePieceAWord(tgt_vocab_size)


def words(number: int) -> str:
    return " ".join(["w"] * number)


def test_rejected_pairs_are_counted_by_reason(prepared: Prepare, tmp_path: Path) -> None:
    pairs = [
        (words(1), words(1)),
        (words(8), words(4)),  # both at their limit
        (words(9), words(1)),
        (words(1), words(5)),
        (words(1), words(6)),
        (words(9), words(6)),  # the first reason counts
        ("", words(1)),
        (words(1), "x" * 101),
        (words(2), words(1)),
    ]
    clean = CleanConfig(max_src_tokens=8, max_tgt_tokens=4, max_word_chars=100)
    store = prepared(text_files(tmp_path, pairs), clean=clean, tokenizers=PlainLengths())
    reasons = {"too_many_src_tokens": 2, "too_many_tgt_tokens": 2, "empty": 1, "word_too_long": 1}
    assert counts(store) == CleanReport(kept=3, rejected=reasons)
    assert store.lengths("src").tolist() == [2, 9, 3]  # with </s>
    assert store.lengths("tgt").tolist() == [2, 5, 2]
    assert [store.describe(pair)[-6:] for pair in range(3)] == ["line 1", "line 2", "line 9"]
    summary = "9 pairs: 3 kept, 1 empty, 2 too_many_src_tokens, 2 too_many_tgt_tokens, 1 word_too_long"
    assert store.report.summary() == summary


def test_side_of_which_normalisation_leaves_nothing_is_empty(prepared: Prepare, tmp_path: Path) -> None:
    store = prepared(text_files(tmp_path, [PAIRS[0], ("\u200b", "ein Hund"), ("a dog", "\u200b\u200b")]))
    assert counts(store) == CleanReport(kept=1, rejected={"empty": 2})


@pytest.mark.parametrize(
    ("batch", "fits"),
    [  # a pair of 20 and 10 ids, </s> included
        (BatchConfig(max_tokens=10, max_source_tokens=20), True),
        (BatchConfig(max_tokens=9, max_source_tokens=20), False),
        (BatchConfig(max_tokens=10, max_source_tokens=19), False),
        (BatchConfig(max_tokens=20), True),
        (BatchConfig(max_tokens=19), False),  # max_source_tokens is the same
    ],
)
def test_pair_that_fits_no_update_is_rejected_for_that(
    batch: BatchConfig, fits: bool, prepared: Prepare, tmp_path: Path
) -> None:
    source = text_files(tmp_path, [(words(1), words(1)), (words(19), words(9))])
    store = prepared(source, batch=batch, tokenizers=PlainLengths())
    expected = CleanReport(kept=2) if fits else CleanReport(kept=1, rejected={"fits_no_update": 1})
    assert counts(store) == expected
    # What is kept can be planned.
    windows = plan_windows(
        store.lengths("src"),
        store.lengths("tgt"),
        store.parts(),
        [1.0],
        seed=1,
        epoch=0,
        max_tokens=batch.max_tokens,
        max_source_tokens=batch.max_source_tokens or batch.max_tokens,
    )
    assert sorted(np.concatenate(list(itertools.chain.from_iterable(windows)))) == list(range(expected.kept))


def test_shards_are_seamless(
    prepared: Prepare, tokenizers: Tokenizers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepared(text_files(tmp_path, PAIRS))
    ids_of_whole, lengths_of_whole = ids_of(whole), whole.lengths("tgt").tolist()
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 16)
    monkeypatch.setattr("transformer_mt.data.pairs.CHUNK_PAIRS", 7)  # no divisor of a shard
    pairs = [*PAIRS[:20], ("", ""), *PAIRS[20:]]
    source = text_files(tmp_path, pairs)
    store = prepared(source)
    assert store.shard_sizes == [16, 15, 16, 13]  # of 16 pairs of input
    assert whole.shard_sizes == [60]
    assert ids_of(store) == ids_of_whole == expected_ids(tokenizers, PAIRS)
    assert store.lengths("tgt").tolist() == lengths_of_whole
    across = np.array([15, 16, 46, 47, 59])
    assert [ids.tolist() for ids in store.get("src", across)] == [ids_of_whole[i][0] for i in across]
    name = f"{source['src']} + {source['tgt']}"
    assert [store.describe(pair) for pair in (15, 16, 19, 20, 59)] == [
        f"{name}, line {n}" for n in (16, 17, 20, 22, 61)
    ]


def test_whole_number_of_shards_leaves_no_empty_one(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 30)
    assert prepared(text_files(tmp_path, PAIRS)).shard_sizes == [30, 30]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
@pytest.mark.parametrize("side", ["src", "tgt"])
def test_ids_are_as_wide_as_the_larger_vocabulary(
    vocab_size: int, dtype: type, side: str, prepared: Prepare, tmp_path: Path
) -> None:
    tokenizers = PlainLengths(**{f"{side}_vocab_size": vocab_size})
    store = prepared(text_files(tmp_path, [(words(2), words(2))] * 3), tokenizers=tokenizers)
    [ids] = store.get(side, np.array([2]))
    assert ids.dtype == dtype
    assert ids.tolist() == [vocab_size - 1, vocab_size - 1, EOS]


# ---------------------------------------------------------------- refusals


def test_not_utf8_names_file_and_line_and_leaves_nothing(prepared: Prepare, cache: Path, tmp_path: Path) -> None:
    source = text_files(tmp_path, PAIRS)
    Path(source["tgt"]).write_bytes(b"gut\nsch\xf6n\n")
    with pytest.raises(InputError, match=r"text\.de, line 2: not UTF-8"):
        prepared(source)
    assert stores(cache) == []


def test_damaged_gz_is_refused(prepared: Prepare, cache: Path, tmp_path: Path) -> None:
    source = text_files(tmp_path, PAIRS, ".gz")
    Path(source["src"]).write_bytes(Path(source["src"]).read_bytes()[:-20])
    with pytest.raises(InputError, match=r"text\.en\.gz: damaged gzip file"):
        prepared(source)
    assert stores(cache) == []


def test_missing_file_is_refused(prepared: Prepare, tmp_path: Path) -> None:
    source = text_files(tmp_path, PAIRS)
    with pytest.raises(InputError, match=r"/none: cannot be read \(No such file or directory\); check the path"):
        prepared({**source, "tgt": str(tmp_path / "none")})


def test_empty_source_is_refused_by_name(prepared: Prepare, cache: Path, tmp_path: Path) -> None:
    good, empty = text_files(tmp_path / "good", PAIRS), text_files(tmp_path / "empty", [])
    with pytest.raises(InputError) as caught:
        prepared(good, empty)
    assert str(caught.value) == f"{empty['src']} + {empty['tgt']}: empty, no sentence pairs; check data.train"
    assert stores(cache) == []


def test_nothing_left_after_cleaning_says_why(prepared: Prepare, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepared(text_files(tmp_path, [("", "a"), ("dog " * 9, "b")]), clean=CleanConfig(max_src_tokens=8))
    assert str(caught.value) == (
        "no sentence pair is left after cleaning (2 pairs: 0 kept, 1 empty, 1 too_many_src_tokens); "
        "a side of most pairs is empty: check the files, columns and languages of the sources"
    )
    assert stores(cache) == []


# ---------------------------------------------------------------- the cache


def snapshot(cache: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in cache.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def forbidden(*args: object, **kwargs: object) -> None:
    raise AssertionError("the text is read again")


def test_second_time_comes_from_the_cache(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = text_files(tmp_path, PAIRS)
    first = prepared(source)
    before = snapshot(cache)
    monkeypatch.setattr("transformer_mt.data.pairs.read_pairs", forbidden)
    again = prepared(source)
    assert (again.directory, again.fingerprint) == (first.directory, first.fingerprint)
    assert snapshot(cache) == before


def test_same_content_at_another_time_or_place_is_the_same_store(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = text_files(tmp_path / "here", PAIRS)
    first = prepared(source)
    monkeypatch.setattr("transformer_mt.data.pairs.read_pairs", forbidden)
    os.utime(source["src"], ns=(0, 0))
    assert prepared(source).directory == first.directory
    assert prepared(text_files(tmp_path / "there", PAIRS)).directory == first.directory
    assert stores(cache) == [first.directory]


def test_changed_content_is_another_store(prepared: Prepare, cache: Path, tmp_path: Path) -> None:
    first = prepared(text_files(tmp_path, PAIRS))
    changed = prepared(text_files(tmp_path, [*PAIRS[:-1], ("A dog.", "Ein Hund.")]))
    assert changed.fingerprint != first.fingerprint
    assert len(stores(cache)) == 2
    assert len(IdStore(first.directory)) == 60  # the old one stays whole


@pytest.mark.parametrize("change", ["clean", "batch", "tokenizers", "order", "seed"])
def test_store_depends_on_all_that_decides_its_content(
    change: str, prepared: Prepare, tokenizers: Tokenizers, cache: Path, tmp_path: Path
) -> None:
    files = text_files(tmp_path, PAIRS)
    sources: list[dict[str, Any]] = [files, {"builtin": "grammar", "split": "train", "num_pairs": 9}]
    first = prepared(*sources)
    settings: dict[str, Any] = {
        "clean": CleanConfig(max_src_tokens=12),
        "batch": BatchConfig(max_tokens=40),
        "tokenizers": Tokenizers(tokenizers.src, swapped(tokenizers)),
    }
    options = {change: settings[change]} if change in settings else {}
    if change == "order":
        sources.reverse()
    if change == "seed":
        sources[1] = {**sources[1], "seed": 2}
    other = prepared(*sources, **options)
    assert other.directory != first.directory
    assert other.fingerprint != first.fingerprint


def swapped(tokenizers: Tokenizers) -> Any:
    """The same segmentation with two ids of frequent pieces exchanged."""
    table = dict(tokenizers.src.table)
    table["."], table["e"] = table["e"], table["."]
    return type(tokenizers.src)(tokenizers.src.model, table)


def test_no_store_before_it_is_whole(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = text_files(tmp_path, PAIRS)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "finish_store", full)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\); free some space"):
            prepared(source)
        assert [path for path in stores(cache) if not path.name.startswith(".")] == []
    store = prepared(source)
    assert len(store) == 60
    assert stores(cache) == [store.directory]


@pytest.mark.parametrize("duplicates", ["keep", "near"])
def test_an_interrupted_build_goes_on_and_ends_the_same(
    duplicates: Any, prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever shard it was at, on one core or on several."""
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 16)
    sources = [text_files(tmp_path / "a", [*PAIRS[:40], ("", "x"), PAIRS[3]]), text_files(tmp_path / "b", PAIRS[30:])]
    clean = CleanConfig(duplicates=duplicates)
    whole = prepared(*sources, clean=clean)
    assert whole.shard_sizes[0] == 16 and len(whole.shard_sizes) == 5
    expected = {path.name: path.read_bytes() for path in whole.directory.iterdir()}
    write = write_side
    for last in range(5):
        shutil.rmtree(cache)

        def interrupted(directory: Path, shard: int, side: str, *arrays: Any, last: int = last) -> Checksums:
            if (shard, side) == (last, "tgt"):
                (directory / ".00000.src.ids.1234.tmp").touch()  # as if it were killed while it writes
                raise KeyboardInterrupt
            return write(directory, shard, side, *arrays)

        with monkeypatch.context() as patch:
            patch.setattr(preparing, "write_side", interrupted)
            with pytest.raises(KeyboardInterrupt):
                prepared(*sources, clean=clean)
        written: list[int] = []

        def counted(directory: Path, shard: int, *args: Any, written: list[int] = written) -> Checksums:
            written.append(shard)
            return write(directory, shard, *args)

        with monkeypatch.context() as patch:
            patch.setattr(preparing, "write_side", counted)
            store = prepared(*sources, clean=clean)
        assert sorted(set(written)) == list(range(last, 5))
        assert {path.name: path.read_bytes() for path in store.directory.iterdir()} == expected
        assert stores(cache) == [store.directory]


def test_a_damaged_shard_of_an_interrupted_build_is_made_anew(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 16)
    source = text_files(tmp_path, PAIRS)
    expected = {path.name: path.read_bytes() for path in prepared(source).directory.iterdir()}
    for name in ("00001.src.ids", "00001.json"):
        shutil.rmtree(cache)
        with monkeypatch.context() as patch:
            patch.setattr(preparing, "finish_store", forbidden)
            with pytest.raises(AssertionError):
                prepared(source)
        flip(next(cache.glob(".*.tmp")) / name)
        assert {path.name: path.read_bytes() for path in prepared(source).directory.iterdir()} == expected


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["00000.src.ids", "00000.tgt.offsets.npy", "00000.places.npy", "tgt.lengths", "meta.json"]
)
def test_a_damaged_store_is_made_anew_and_that_is_told(
    name: str, prepared: Prepare, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = text_files(tmp_path, PAIRS)
    first = prepared(source)
    expected = {path.name: path.read_bytes() for path in first.directory.iterdir()}
    for spoil in (flip, lambda path: os.truncate(path, 8), Path.unlink):
        spoil(first.directory / name)
        again = prepared(source)
        assert f"{first.directory}: the prepared corpus is damaged ({name}" in capfd.readouterr().err
        assert {path.name: path.read_bytes() for path in again.directory.iterdir()} == expected
        assert stores(cache) == [first.directory]


def test_what_the_system_refuses_deletes_nothing(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a store nor of an interrupted build."""
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 16)
    source = text_files(tmp_path, PAIRS)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def refused() -> None:
        before = snapshot(cache)
        with monkeypatch.context() as patch, pytest.raises(RunError, match=r"cannot be read \(Permission denied\)"):
            patch.setattr("transformer_mt.data.checksums.open", refuse, raising=False)
            prepared(source)
        assert snapshot(cache) == before

    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(preparing, "finish_store", forbidden)
        prepared(source)
    refused()
    prepared(source)
    refused()
    with monkeypatch.context() as patch, pytest.raises(RunError):
        patch.setattr("transformer_mt.system.directories.locked", refuse)
        prepared(source, clean=CleanConfig(max_chars=50))
    assert len(stores(cache)) == 1, "nothing is begun without the lock"


@pytest.mark.parametrize("name", ["occurrences", "occurrences.seal"])
def test_a_damaged_list_of_duplicates_is_made_anew(
    name: str, prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 16)
    source, clean = text_files(tmp_path, [*PAIRS, *PAIRS]), CleanConfig(duplicates="exact")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_ShardWriter", forbidden)
        with pytest.raises(AssertionError):
            prepared(source, clean=clean)
    [building] = cache.glob(".*.tmp")
    left = {path.name: path.read_bytes() for path in building.iterdir()}
    expected = {path.name: path.read_bytes() for path in prepared(source, clean=clean).directory.iterdir()}
    for spoil in (flip, lambda path: os.truncate(path, 0), Path.unlink):
        shutil.rmtree(cache)
        building.mkdir(parents=True)
        for file, content in left.items():
            (building / file).write_bytes(content)
        spoil(building / name)
        found = prepared(source, clean=clean)
        assert {path.name: path.read_bytes() for path in found.directory.iterdir()} == expected


def test_larger_updates_leave_the_store_as_it_is(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no pair that the rules keep is too long for either."""
    source = text_files(tmp_path, PAIRS)
    first = prepared(source, batch=BatchConfig(max_tokens=257))
    monkeypatch.setattr("transformer_mt.data.pairs.read_pairs", forbidden)
    assert prepared(source, batch=BatchConfig(max_tokens=9000)).directory == first.directory
    assert prepared(source, batch=BatchConfig(max_tokens=9000, max_source_tokens=300)).directory == first.directory
    with pytest.raises(AssertionError):
        prepared(source, batch=BatchConfig(max_tokens=9000, max_source_tokens=256))


def test_another_version_of_the_grammar_is_another_store(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"builtin": "grammar", "split": "train", "num_pairs": 9}
    first = prepared(source)
    monkeypatch.setattr(grammar, "VERSION", 99)
    assert prepared(source).directory != first.directory


def test_another_commit_on_the_hub_is_another_store(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub does not answer, its last answer counts."""
    import datasets
    import huggingface_hub

    answers = iter(["one", "two", None])

    def dataset_info(self: Any, name: str, timeout: float) -> Any:
        answer = next(answers)
        if answer is None:
            raise OSError("no network")
        return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    rows = translation_rows(PAIRS)
    read: list[str] = []

    def load_dataset_builder(*args: Any, revision: str, **kwargs: Any) -> Any:
        read.append(revision)
        return SimpleNamespace(name="json", download_and_prepare=lambda: None, as_dataset=lambda split: rows)

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    found = [prepared({"hub": "some/name", "split": "train"}).directory for _ in range(3)]
    assert found[0] != found[1] == found[2]
    assert read == ["one", "two"], "what is read is what the store is named after"


def test_two_processes_make_one_store(cache: Path, tmp_path: Path, tokenizers: Tokenizers) -> None:
    """The second waits for the first and finds its store."""
    source = text_files(tmp_path, PAIRS)
    data = DataConfig(src_lang="en", tgt_lang="de", train=(SourceConfig(**source),), cache_dir=str(cache))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def make() -> None:
        store = prepare(data, BatchConfig(), tokenizers)
        answers.put((store.directory, (store.directory / "meta.json").stat().st_ino))

    processes = [context.Process(target=make) for _ in range(4)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1
    assert stores(cache) == [found.pop()[0]]


def test_damaged_store_is_refused(prepared: Prepare, tmp_path: Path) -> None:
    store = prepared(text_files(tmp_path, PAIRS))
    for name in ("00000.src.ids", "00000.tgt.offsets.npy", "src.lengths", "meta.json"):
        path = store.directory / name
        content = path.read_bytes()
        for damaged in (content[:-8], b""):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=r"the prepared corpus is damaged \(.*\); delete it and run again"):
                IdStore(store.directory).get("src" if "src" in name else "tgt", np.array([0]))
        path.write_bytes(content)
    assert len(IdStore(store.directory).get("src", np.array([0]))) == 1


def test_cache_that_cannot_be_made_is_a_run_error(prepared: Prepare, cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(RunError, match=r"cache.*: cannot be written \("):
        prepared(text_files(tmp_path, PAIRS))


# ---------------------------------------------------------------- Hugging Face data sets


def translation_rows(pairs: list[tuple[str, str]]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"translation": [{"en": src, "de": tgt} for src, tgt in pairs]})


def saved_dataset(folder: Path, pairs: list[tuple[str, str]]) -> None:
    translation_rows(pairs).save_to_disk(folder)


def saved_splits(folder: Path, pairs: list[tuple[str, str]]) -> None:
    import datasets

    other = translation_rows([("not", "this")])
    datasets.DatasetDict({"train": translation_rows(pairs), "validation": other}).save_to_disk(folder)


def folder_of_jsonl(folder: Path, pairs: list[tuple[str, str]]) -> None:
    folder.mkdir()
    write_lines(folder / "train.jsonl", (json.dumps({"en": src, "de": tgt}) for src, tgt in pairs))


def folder_of_parquet(folder: Path, pairs: list[tuple[str, str]]) -> None:
    folder.mkdir()
    translation_rows(pairs).to_parquet(folder / "train-00000-of-00001.parquet")


KINDS = [saved_dataset, saved_splits, folder_of_jsonl, folder_of_parquet]


def plan_of(store: IdStore) -> list[list[int]]:
    windows = plan_windows(
        store.lengths("src"),
        store.lengths("tgt"),
        store.parts(),
        [1.0],
        seed=1,
        epoch=0,
        max_tokens=100,
        max_source_tokens=100,
    )
    return [update.tolist() for updates in windows for update in updates]


@pytest.mark.parametrize("make", KINDS)
def test_data_set_gives_the_same_store_as_the_files(
    make: Callable[[Path, list[tuple[str, str]]], None],
    prepared: Prepare,
    tokenizers: Tokenizers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 25)
    pairs = [*PAIRS[:30], ("", "leer"), *PAIRS[30:]]
    make(tmp_path / "set", pairs)
    files = prepared(text_files(tmp_path, pairs))
    data_set = prepared({"hub": str(tmp_path / "set"), "split": "train"})
    assert data_set.directory != files.directory
    assert ids_of(data_set) == ids_of(files) == expected_ids(tokenizers, PAIRS)
    assert data_set.fingerprint == files.fingerprint
    assert counts(data_set) == counts(files) == CleanReport(kept=60, rejected={"empty": 1})
    assert plan_of(data_set) == plan_of(files)
    assert len(plan_of(files)) > 3  # a plan worth the comparison
    assert data_set.describe(30) == f"{tmp_path}/set[train], line 32"


def test_data_set_is_found_in_the_cache_by_content(prepared: Prepare, tmp_path: Path) -> None:
    saved_dataset(tmp_path / "one", PAIRS)
    saved_dataset(tmp_path / "changed", [*PAIRS[:-1], ("A dog.", "Ein Hund.")])
    first = prepared({"hub": str(tmp_path / "one"), "split": "train"})
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert prepared({"hub": str(tmp_path / "copy"), "split": "train"}).directory == first.directory
    assert prepared({"hub": str(tmp_path / "changed"), "split": "train"}).directory != first.directory


def test_columns_may_have_other_names(prepared: Prepare, tokenizers: Tokenizers, tmp_path: Path) -> None:
    import datasets

    rows = {"english": [src for src, _ in PAIRS], "german": [tgt for _, tgt in PAIRS], "en": ["no"] * len(PAIRS)}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    columns = {"src_column": "english", "tgt_column": "german"}
    store = prepared({"hub": str(tmp_path / "set"), "split": "train", **columns})
    assert ids_of(store) == expected_ids(tokenizers, PAIRS)


def test_missing_text_is_an_empty_side(prepared: Prepare, tmp_path: Path) -> None:
    import datasets

    rows = {"en": ["A dog.", None, "A cat."], "de": [None, "Ein Hund.", "Eine Katze."]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    store = prepared({"hub": str(tmp_path / "set"), "split": "train"})
    assert counts(store) == CleanReport(kept=1, rejected={"empty": 2})


def refusal_of(prepared: Prepare, **source: Any) -> str:
    with pytest.raises(InputError) as caught:
        prepared(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("make", KINDS[1:])
def test_wrong_split_is_refused(
    make: Callable[[Path, list[tuple[str, str]]], None], prepared: Prepare, tmp_path: Path
) -> None:
    make(tmp_path / "set", PAIRS)
    message = refusal_of(prepared, hub=str(tmp_path / "set"), split="dev")
    assert f"{tmp_path}/set" in message and "dev" in message and "train" in message


def test_split_of_a_single_saved_data_set_is_checked_where_it_is_known(prepared: Prepare, tmp_path: Path) -> None:
    import datasets

    rows = {"en": ["A dog."], "de": ["Ein Hund."]}
    datasets.Dataset.from_dict(rows, split="train").save_to_disk(tmp_path / "set")
    assert len(prepared({"hub": str(tmp_path / "set"), "split": "train"})) == 1
    message = refusal_of(prepared, hub=str(tmp_path / "set"), split="validation")
    assert message == f"data set {tmp_path}/set: no split 'validation'; it has train"


@pytest.mark.parametrize("make", KINDS)
def test_wrong_column_is_refused_with_those_there_are(
    make: Callable[[Path, list[tuple[str, str]]], None], prepared: Prepare, cache: Path, tmp_path: Path
) -> None:
    make(tmp_path / "set", PAIRS)
    message = refusal_of(prepared, hub=str(tmp_path / "set"), split="train", tgt_column="french")
    assert message.startswith(f"data set {tmp_path}/set, row 0: no column 'french'; it has ")
    assert sorted(message.split("it has ")[1].split("; ")[0].split(", ")) == ["de", "en"]
    assert message.endswith("name the right ones with src_column and tgt_column")
    assert stores(cache) == []


def test_data_set_that_is_not_there_is_refused(prepared: Prepare, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "none"), str(tmp_path / "empty")):
        message = refusal_of(prepared, hub=name, split="train")
        assert message.startswith(f"data set {name}, split train: cannot be loaded (")


# ---------------------------------------------------------------- scale


def test_only_so_many_files_are_open(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory map keeps its file open: with all of them the usual limit of 1,024 would end at 50 million pairs."""
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 1)
    store = prepared(text_files(tmp_path, PAIRS))
    monkeypatch.setattr("transformer_mt.data.store._MAX_OPEN_SHARDS", 4)
    expected = ids_of(store)
    before = len(os.listdir("/proc/self/fd"))
    again = IdStore(store.directory)
    order = np.random.default_rng(1).permutation(60)
    for pair in [*order, *order]:
        [ids] = again.get("src", np.array([pair]))
        assert ids.tolist() == expected[pair][0]
    assert len(os.listdir("/proc/self/fd")) <= before + 2 + 4 * 4
    monkeypatch.undo()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(
        64, (len(os.listdir("/proc/self/fd")) + 20) * 3 // 2
    )  # a store takes a quarter of what this process may open
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (few, few))  # no more, if it asks
    try:
        again = IdStore(store.directory)
        assert [again.get("src", np.array([pair]))[0].tolist() for pair in order] == [expected[i][0] for i in order]
        assert damage(store.directory) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_shards_of_many_sources_stay_open(
    prepared: Prepare, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update has pairs of each source: kept open, a shard is looked through once."""
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 1)
    store = IdStore(prepared(text_files(tmp_path, PAIRS)).directory)
    opened: list[str] = []
    array = store._array

    def watched(name: str) -> Any:
        opened.append(name)
        return array(name)

    monkeypatch.setattr(store, "_array", watched)
    for _ in range(3):
        store.gather("src", np.arange(60))
        store.gather("tgt", np.arange(60))
    assert len(opened) == len(set(opened)) == 2 * 60  # offsets of both sides


# ---------------------------------------------------------------- several sources


def test_parts_are_the_runs_of_a_source_in_a_shard(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 16)
    sizes = [20, 1, 25, 2]
    ends = list(itertools.accumulate(sizes))
    sources = [text_files(tmp_path / str(end), PAIRS[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    store = prepared(*sources)
    assert store.source_sizes == sizes
    assert store.parts() == [(0, 0, 16), (0, 16, 20), (1, 20, 21), (2, 21, 32), (2, 32, 46), (3, 46, 48)]


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_later_duplicates_are_left_out(kind: Any, prepared: Prepare, tokenizers: Tokenizers, tmp_path: Path) -> None:
    """Over all sources, whichever is the first to have it."""
    src, tgt = PAIRS[0]
    one = text_files(tmp_path / "one", [PAIRS[0], PAIRS[1], (src.upper(), tgt)])
    two = text_files(tmp_path / "two", [(f" {src}", tgt), (src, PAIRS[1][1]), PAIRS[2]])
    store = prepared(one, two, clean=CleanConfig(duplicates=kind))
    expected = [PAIRS[0], PAIRS[1], *([(src.upper(), tgt)] if kind == "exact" else []), (src, PAIRS[1][1]), PAIRS[2]]
    assert ids_of(store) == expected_ids(tokenizers, expected)
    reason, number = ("duplicate", 1) if kind == "exact" else ("near_duplicate", 2)
    assert counts(store) == CleanReport(kept=len(expected), rejected={reason: number})
    assert {example.src for example in store.report.examples[reason]} <= {src, src.upper()}
    assert not (store.directory / "occurrences").exists()


def test_held_out_text_is_left_out(cache: Path, tokenizers: Tokenizers, tmp_path: Path) -> None:
    """Either side of it, and what is near to it, from training and from the tokenizer; other text has another store."""
    train = text_files(tmp_path, [*PAIRS[:8], (PAIRS[0][0].upper(), "x"), (PAIRS[9][0], PAIRS[1][1]), PAIRS[9]])
    valid = SourceConfig(**text_files(tmp_path / "valid", [PAIRS[0], PAIRS[20], ("", "")]))
    test = SourceConfig(**text_files(tmp_path / "test", [PAIRS[1]]))
    data = DataConfig(
        src_lang="en",
        tgt_lang="de",
        train=(SourceConfig(**train),),
        valid=(valid,),
        test=(test,),
        clean=CleanConfig(drop_held_out=True),
        cache_dir=str(cache),
    )
    store = prepare(data, BatchConfig(), tokenizers)
    kept = [*PAIRS[2:8], PAIRS[9]]
    assert ids_of(store) == expected_ids(tokenizers, kept)
    assert counts(store) == CleanReport(kept=len(kept), rejected={"held_out": 4})
    assert list(preparing.training_pairs(data)) == kept
    without_test = data.model_copy(update={"test": ()})
    assert len(prepare(without_test, BatchConfig(), tokenizers)) == len(kept) + 2
    keeping = without_test.model_copy(update={"clean": CleanConfig()})
    assert len(prepare(keeping, BatchConfig(), tokenizers)) == 11


def test_sources_start_with_their_tags(prepared: Prepare, tokenizers: Tokenizers, tmp_path: Path) -> None:
    tagged = tokenizers.with_tags(["<2de>", "<2fr>", "<law>"])
    size = tokenizers.src.vocab_size
    files = text_files(tmp_path, PAIRS[:2])
    store = prepared(files, {**files, "tgt_lang": "fr", "tag": "law"}, tokenizers=tagged)
    plain = expected_ids(tokenizers, PAIRS[:2])
    src = [ids for ids, _ in ids_of(store)]
    assert src == [[size, *ids] for ids, _ in plain] + [[size + 1, size + 2, *ids] for ids, _ in plain]
    assert [ids for _, ids in ids_of(store)] == [ids for _, ids in [*plain, *plain]]
    with pytest.raises(InputError, match=r"no tag <2ko>; it has <2de>, <2fr>"):
        prepared(files, {**files, "tgt_lang": "ko"}, tokenizers=tagged)


def test_tags_count_as_tokens(prepared: Prepare, tmp_path: Path) -> None:
    files = text_files(tmp_path, [(words(8), words(1)), (words(7), words(1))])
    store = prepared({**files, "tag": "x"}, clean=CleanConfig(max_src_tokens=8), tokenizers=PlainLengths())
    assert counts(store) == CleanReport(kept=1, rejected={"too_many_src_tokens": 1})
    assert store.lengths("src").tolist() == [9]


def test_weights_make_another_run_but_not_another_store(prepared: Prepare, tmp_path: Path) -> None:
    files = text_files(tmp_path, PAIRS)
    store = prepared(files)
    assert prepared({**files, "weight": 2.0, "name": "all", "license": "CC0"}).directory == store.directory

    def fingerprint(*weights: float, **data: Any) -> str:
        sources = tuple(SourceConfig(**files, weight=weight, name=f"s{i}") for i, weight in enumerate(weights))
        return epochs.corpus_fingerprint(DataConfig(src_lang="en", tgt_lang="de", train=sources, **data), store)

    assert fingerprint(1.0) == fingerprint(1.0)
    stages = ({"weights": {"s0": 4.0}},)
    assert len({fingerprint(1.0), fingerprint(2.0), fingerprint(3.0), fingerprint(1.0, stages=stages)}) == 4


def test_the_same_pairs_in_other_sources_are_another_run(prepared: Prepare, tmp_path: Path) -> None:
    """Their ids are the same, but an epoch goes through each source in an order of its own."""
    files = [text_files(tmp_path / str(n), PAIRS[n : n + 20]) for n in (0, 20, 40)]
    one, three = prepared(text_files(tmp_path, PAIRS)), prepared(*files)
    assert one.fingerprint == three.fingerprint

    def fingerprint(store: IdStore, *sources: dict[str, Any]) -> str:
        train = tuple(SourceConfig(**source) for source in sources)
        return epochs.corpus_fingerprint(DataConfig(src_lang="en", tgt_lang="de", train=train), store)

    assert fingerprint(one, text_files(tmp_path, PAIRS)) != fingerprint(three, *files)


def test_a_path_may_have_bytes_of_another_encoding(tmp_path: Path) -> None:
    path = os.path.join(tmp_path, os.fsdecode(b"stra\xdfe.en"))
    write_lines(path, ["a"])
    for _ in range(2):  # read, and remembered
        assert content_hash(path, tmp_path / "cache") == hashlib.sha256(b"a\n").hexdigest()


def test_a_cache_that_cannot_be_written_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_lines(str(path), ["a"])  # no folder, either
    with pytest.raises(
        RunError, match=r"/text/hashes: cannot be written \(.*, or name another folder as data.cache_dir"
    ):
        content_hash(str(path), path)

"""Published test sets in made-up caches of sacreBLEU, and downloads from a network that is made up too."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from harness import tmt_here
from sacrebleu.dataset import DATASETS

from transformer_mt.cli.evaluate import _find_test_set
from transformer_mt.config.data_sections import DataConfig, SourceConfig
from transformer_mt.data.cache_keys import source_key, training_files
from transformer_mt.data.pairs import NamedSource
from transformer_mt.data.readers.published import PublishedSet, published_set
from transformer_mt.data.readers.sources import read_pairs, source_files
from transformer_mt.errors import InputError

PLAIN, XML = "multi30k/2016", "wmt21/AB"
URL_OF: dict[str, str] = {name: DATASETS[name].data[0] for name in (PLAIN, XML)}  # type: ignore[index]
DOCUMENT = """<?xml version="1.0" encoding="utf-8"?>
<dataset id="newstest2021"><doc id="d" origlang="en">
<src lang="en"><p><seg id="1">A dog.</seg><seg id="2">A cat.</seg></p></src>
<ref lang="de" translator="A"><p><seg id="1">Ein Hund.</seg><seg id="2">Eine Katze.</seg></p></ref>
<ref lang="de" translator="B"><p><seg id="1">Hund.</seg><seg id="2">Katze.</seg></p></ref>
</doc></dataset>
"""

Served = Callable[[str], io.BytesIO]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of sacreBLEU, and no network."""
    place = tmp_path / "cache"
    for name in (PLAIN, XML):
        monkeypatch.setattr(DATASETS[name], "_outdir", str(place / name))
        monkeypatch.setattr(DATASETS[name], "_rawdir", str(place / name / "raw"))
    serve(monkeypatch, no_network)
    return place


def no_network(url: str) -> io.BytesIO:
    raise URLError(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))


def serve(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr("urllib.request.urlopen", served)


def write_plain(cache: Path, src: str = "A dog.\nA cat.\n", ref: str = "Ein Hund.\nEine Katze.\n") -> Path:
    place = cache / PLAIN
    place.mkdir(parents=True, exist_ok=True)
    (place / "multi30k_2016.en-de.src").write_text(src)
    (place / "multi30k_2016.en-de.ref").write_text(ref)
    return place


def archive(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def names_below(directory: Path) -> list[str]:
    """The files, but for the lock, which stays."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(str(path.relative_to(directory)) for path in files)


def refusal(name: str, src: str = "en", tgt: str = "de") -> str:
    with pytest.raises(InputError) as caught:
        published_set(name, src, tgt)
    return str(caught.value)


def test_set_in_the_cache_is_a_source_and_needs_no_network(cache: Path) -> None:
    place = write_plain(cache)
    files = [str(place / f"multi30k_2016.en-de.{side}") for side in ("src", "ref")]
    source = SourceConfig(test_set=PLAIN)
    for langs in (("en", "de"), ("en-US", "deu"), ("eng", "de_AT")):
        assert published_set(PLAIN, *langs) == PublishedSet(PLAIN, "en-de", files[0], files[1:])
        assert [*map(tuple, read_pairs(source, *langs))] == [("A dog.", "Ein Hund."), ("A cat.", "Eine Katze.")]
    assert source_files(source, "en", "de") == files
    assert str(source) == f"test set {PLAIN}"
    data = DataConfig(src_lang="en", tgt_lang="de", train=(source,), cache_dir=str(cache / "own"))
    assert [*training_files(data)] == files


def test_key_of_a_prepared_corpus_follows_the_content(cache: Path) -> None:
    def key() -> Any:
        return source_key(NamedSource("x", SourceConfig(test_set=PLAIN), ("en", "de")), cache / "own")

    write_plain(cache)
    before = key()
    assert key() == before
    write_plain(cache, ref="Ein Hund.\nDie Katze sitzt.\n")
    assert key() != before


def test_set_is_downloaded_once_and_has_all_references(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, asked = archive({"test/newstest2021.en-de.xml": DOCUMENT}), []

    def served(url: str) -> io.BytesIO:
        asked.append((url, socket.getdefaulttimeout()))
        return io.BytesIO(content)

    serve(monkeypatch, served)
    monkeypatch.setattr(DATASETS[XML], "md5", [hashlib.md5(content).hexdigest()])
    before = socket.getdefaulttimeout()
    kind, references = type(DATASETS[XML]), type(DATASETS[XML]).get_reference_files
    # In the other order than their own, as may happen in any process.
    monkeypatch.setattr(kind, "get_reference_files", lambda *args: sorted(references(*args), reverse=True))  # type: ignore[no-untyped-call]
    for _ in range(2):
        found = published_set(XML, "en", "de")
        assert [Path(ref).read_text() for ref in found.refs] == ["Ein Hund.\nEine Katze.\n", "Hund.\nKatze.\n"]
        assert Path(found.src).read_text() == "A dog.\nA cat.\n"
    assert asked == [(URL_OF[XML], 20)]
    assert socket.getdefaulttimeout() == before
    pairs = read_pairs(SourceConfig(test_set=XML), "en", "de")
    assert [pair.tgt for pair in pairs] == ["Ein Hund.", "Eine Katze."]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "(Temporary failure in name resolution)"),
        (HTTPError("u", 404, "Not Found", None, None), "(HTTP Error 404: Not Found)"),  # type: ignore[arg-type]
        (TimeoutError("timed out"), "(timed out)"),
        (ConnectionResetError(104, "Connection reset by peer"), "(Connection reset by peer)"),
    ],
)
def test_no_network_is_one_line(
    error: Exception | None,
    reason: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fails(url: str) -> io.BytesIO:
        raise error or AssertionError

    if error is not None:
        serve(monkeypatch, fails)
    done = tmt_here("eval", "--hyp", os.devnull, "--test-set", PLAIN, "--langs", "en-de")
    assert done.status == 2
    assert f"cannot be fetched from {URL_OF[PLAIN]} {reason}; connect" in done.refusal
    assert f"`sacrebleu -t {PLAIN} -l en-de --echo src`" in done.refusal
    assert done.refusal.endswith(f"copy its ~/.sacrebleu/{PLAIN} to {cache / PLAIN}")
    assert done.stderr == f"{done.refusal}\n" and capfd.readouterr() == ("", "")
    assert names_below(cache) == []


def test_what_an_interruption_leaves_is_not_believed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"test_2016_flickr.en": "A dog.\n", "test_2016_flickr.de": "Ein Hund.\n"}
    monkeypatch.setattr(DATASETS[PLAIN], "md5", None)
    serve(monkeypatch, lambda url: io.BytesIO(archive(files)))

    def extract_half(tar: str, directory: str) -> None:
        Path(directory, "test_2016_flickr.en").write_text("A d")
        raise KeyboardInterrupt

    def convert_half(path: str, mode: str = "rt") -> Any:
        if mode == "rt":
            return open(path)
        Path(path).write_text("A d")
        raise KeyboardInterrupt

    for place, half in (("utils.extract_tarball", extract_half), ("dataset.plain_text.smart_open", convert_half)):
        with monkeypatch.context() as patched:
            patched.setattr(f"sacrebleu.{place}", half)
            with pytest.raises(KeyboardInterrupt):
                published_set(PLAIN, "en", "de")
        assert names_below(cache) == []
    assert Path(published_set(PLAIN, "en", "de").src).read_text() == "A dog.\n"


def test_another_file_than_the_one_that_was_published_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, lambda url: io.BytesIO(b"<html>please log in</html>"))
    assert "(what came is not the file whose checksum sacreBLEU has)" in refusal(XML)
    monkeypatch.setattr(DATASETS[XML], "md5", None)
    assert "(ReadError: " in refusal(XML)
    assert names_below(cache) == []


def test_damage_in_the_cache_is_told(cache: Path) -> None:
    place = write_plain(cache, ref="Ein Hund.\nEine Kat")
    (place / "multi30k_2016.en-de.ref").write_text("Ein Hund.\n")
    told = f"test set {PLAIN} en-de: damaged or not complete in {place} (lines found: 1, 2); delete that directory"
    assert refusal(PLAIN).startswith(told)
    raw = cache / XML / "raw"
    (raw / "test").mkdir(parents=True)
    (raw / "wmt21_AB.test.tgz").write_bytes(b"\x1f\x8b")
    assert "(FileNotFoundError: " in refusal(XML)  # sacreBLEU was interrupted before it had unpacked
    (raw / "test" / "newstest2021.en-de.xml").write_text(DOCUMENT[:300])
    assert "damaged or not complete" in refusal(XML) and "(XMLSyntaxError: " in refusal(XML)


def test_cache_that_cannot_be_written_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(url: str) -> io.BytesIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    serve(monkeypatch, fails)
    assert f"{cache / PLAIN}: cannot be written (No space left on device)" in refusal(PLAIN)
    shutil.rmtree(cache)
    cache.write_text("a file")
    assert f"{cache / PLAIN}: cannot be written (Not a directory)" in refusal(PLAIN)
    assert "SACREBLEU" in refusal(PLAIN)


def test_unknown_sets_and_languages_are_told(cache: Path) -> None:
    assert refusal("WMT14 ").startswith("unknown test set 'WMT14 ', nearest is wmt14")
    assert "nearest" not in refusal("zzzzzz") and f"sacreBLEU has {len(DATASETS)}" in refusal("zzzzzz")
    assert refusal(PLAIN, "en", "ja") == f"test set {PLAIN}: not in en-ja; choose from en-cs, en-de, en-fr"


# ---------------------------------------------------------------- tmt eval


def test_signatures_name_the_set(cache: Path, tmp_path: Path) -> None:
    place = write_plain(cache)
    hyp = tmp_path / "hyp"
    hyp.write_text("Ein Hund.\nDie Katze.\n")
    files = ("eval", "--hyp", hyp)
    named = tmt_here(*files, "--test-set", PLAIN, "--langs", "en-DE").ok().lines
    plain = tmt_here(*files, "--ref", place / "multi30k_2016.en-de.ref").ok().lines
    assert all("|nrefs:1|test:multi30k/2016|lang:en-de|" in line for line in named)
    assert [line.replace("|test:multi30k/2016|lang:en-de", "") for line in named] == plain
    told = json.loads(tmt_here(*files, "--test-set", PLAIN, "--langs", "en-de", "--json").ok().stdout)
    assert told["metrics"]["bleu"]["signature"].startswith("nrefs:1|test:multi30k/2016|lang:en-de|")
    for more, words in {
        ("--test-set", PLAIN): "give --langs, one of en-cs, en-de, en-fr",
        ("--test-set", PLAIN, "--langs", "en"): "--langs en: give two codes",
        ("--test-set", PLAIN, "--langs", "en-de", "--ref", hyp): "remove --src and --ref",
        ("--ref", hyp, "--langs", "en-de"): "--langs en-de says which languages of a --test-set",
        ("--test-set", PLAIN, "--langs", "en-de", "--tgt-lang", "fr"): "has its references in de",
    }.items():
        refused = tmt_here(*files, *more)
        assert refused.status == 2 and words in refused.refusal


@pytest.mark.parametrize(
    ("train", "langs", "tgt_lang", "asked", "warned"),
    [
        ([{}], None, None, None, ""),
        ([{}], "en-de", None, None, ""),
        ([{"tgt_lang": "nl"}], "en-de", None, None, r"warning: .* was trained from en-GB into nl\n"),
        ([{}, {"tgt_lang": "fr"}], None, None, "de-AT", ""),
        ([{}, {"tgt_lang": "fr"}], "en-fr", None, "fr", ""),
        ([{}, {"tgt_lang": "fr"}], None, "fr", "fr", ""),
        ([{}, {"tgt_lang": "fr"}], "en-cs", None, "cs", r"warning: .* into de-AT, fr\n"),  # which the model refuses
        ([{"tgt_lang": "t1"}, {"tgt_lang": "t2"}], "en-de", "t2", "t2", r"warning: .* into t1, t2\n"),  # its own codes
    ],
)
def test_languages_are_the_models(
    train: list[dict[str, str]],
    langs: str | None,
    tgt_lang: str | None,
    asked: str | None,
    warned: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = write_plain(cache)
    for other in ("en-fr", "en-cs"):
        for side in ("src", "ref"):
            (place / f"multi30k_2016.{other}.{side}").write_text("x\n")
    data = {"src_lang": "en-GB", "tgt_lang": "de-AT", "train": train}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data, "model": {}}))
    monkeypatch.setattr("transformer_mt.checkpoints.run_directory.resolve_model", lambda path: path)
    found, wanted = _find_test_set(tmp_path, PLAIN, langs, tgt_lang)
    assert (found.langs, wanted) == (langs or f"en-{tgt_lang or 'de'}", asked)
    assert re.fullmatch(warned, capsys.readouterr().err)

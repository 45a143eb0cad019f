"""Test sets that sacreBLEU knows by name, from its cache, into which it downloads them."""

from __future__ import annotations

import contextlib
import copy
import difflib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError

from transformer_mt.data.readers.languages import distance
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell
from transformer_mt.system.directories import exchange, scratch_directory
from transformer_mt.system.lines import read_lines
from transformer_mt.system.locks import locked
from transformer_mt.system.whole_files import reason_of

Dataset = Any  # sacrebleu.dataset.base.Dataset, whose methods have no types

_NETWORK_SECONDS = 20  # how long a server may say nothing


class PublishedSet(NamedTuple):
    """A test set in one pair of languages: its files of lines."""

    name: str
    langs: str  # sacreBLEU's name for the pair, "en-de"
    src: str
    refs: list[str]  # those that belong to this name: wmt21 has one, wmt21/AB two

    @property
    def tgt_lang(self) -> str:
        """Its target language, as sacreBLEU names it."""
        return self.langs.split("-")[1]


def published_set(name: str, src_lang: str, tgt_lang: str) -> PublishedSet:
    """Return the files of a test set by its name, as "wmt14" or "wmt14/full"; what is not in the cache is downloaded.

    Languages match by their primary subtags: en-US finds en.

    Raises:
        InputError: no such set, none in these languages, or it is damaged or cannot be fetched.
    """
    dataset = _dataset(name)
    langs = _pair(dataset, src_lang, tgt_lang)
    try:
        src, *refs = _files(dataset, langs) or _fetched(dataset, langs)
        counts = {sum(1 for _ in read_lines(path)) for path in (src, *refs)}
    except InputError:
        raise
    except Exception as error:  # whatever its parsers raise
        raise _damaged(dataset, langs, f"{type(error).__name__}: {error}") from error
    if not refs or counts == {0} or len(counts) > 1:
        raise _damaged(dataset, langs, f"lines found: {', '.join(map(str, sorted(counts)))}")
    return PublishedSet(name, langs, src, refs)


def language_pairs(name: str) -> list[str]:
    """Return the pairs of languages of a test set, as sacreBLEU names them.

    Raises:
        InputError: no such set.
    """
    return sorted(_dataset(name).langpairs)


def _dataset(name: str) -> Dataset:
    from sacrebleu.dataset import DATASETS  # slow to import

    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=3)
        nearest = f", nearest is {' or '.join(near)}" if near else ""
        raise InputError(
            f"unknown test set '{name}'{nearest}; sacreBLEU has {len(DATASETS)}, which `sacrebleu --list` names"
        )
    return DATASETS[name]


def _pair(dataset: Dataset, src_lang: str, tgt_lang: str) -> str:
    best: tuple[int, str] | None = None
    for pair in sorted(dataset.langpairs):
        src, tgt = pair.split("-")
        distances = distance(src_lang, src), distance(tgt_lang, tgt)
        if None not in distances:
            one = sum(distances), pair  # type: ignore[arg-type]
            best = one if best is None else min(best, one)
    if best is None:
        raise InputError(
            f"test set {dataset.name}: not in {src_lang}-{tgt_lang}; choose from {', '.join(sorted(dataset.langpairs))}"
        )
    return best[1]


class _AbsentError(Exception):
    """What was asked for is not in the cache."""


def _files(dataset: Dataset, langs: str) -> list[str] | None:
    """The files of a pair, or None where they are not in the cache."""

    def refuse(*_: object) -> None:
        raise _AbsentError

    here = copy.copy(dataset)
    vars(here)["process_to_text"] = refuse
    vars(here)["maybe_download"] = refuse if _downloads_are_missing(dataset) else _do_nothing
    with contextlib.suppress(_AbsentError):
        # sacreBLEU has the references of XML in the order of a set, another in each process.
        return [here.get_source_file(langs), *sorted(here.get_reference_files(langs))]
    return None


def _fetched(dataset: Dataset, langs: str) -> list[str]:
    """Download and unpack in a hidden directory: what a process that is stopped leaves would be taken for whole."""
    place, raw = Path(dataset._outdir), Path(dataset._rawdir)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / ".lock", tell, wait=True):
            if (files := _files(dataset, langs)) is not None:
                return files  # another process has fetched it
            with scratch_directory(raw) as scratch:
                fresh = copy.copy(dataset)
                fresh._outdir = str(scratch / "text")
                os.mkdir(fresh._outdir)
                if _downloads_are_missing(dataset):
                    fresh._rawdir = str(scratch / "raw")
                    _download(fresh, langs, place)
                vars(fresh)["maybe_download"] = _do_nothing
                try:
                    fresh.get_files(langs)
                except Exception as error:
                    raise _damaged(dataset, langs, f"{type(error).__name__}: {error}") from error
                if fresh._rawdir != dataset._rawdir:
                    exchange(Path(fresh._rawdir), raw)
                for file in Path(fresh._outdir).iterdir():
                    os.replace(file, place / file.name)
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({reason_of(error)}), where sacreBLEU keeps test sets; free some space, or "
            "let the environment variable SACREBLEU name another directory"
        ) from error
    return _files(dataset, langs) or []


def _download(fresh: Dataset, langs: str, place: Path) -> None:
    try:
        with _bounded_and_silent():
            fresh.maybe_download()
    # Whatever the network and unpacking may raise; of a file that is not what it should be, sacreBLEU exits.
    except (Exception, SystemExit) as error:
        if _is_of_the_cache(error):
            raise
        raise InputError(
            f"test set {fresh.name}: cannot be fetched from {' and '.join(fresh.data or ())} ({_reason(error)}); "
            f"connect to a network, or run `sacrebleu -t {fresh.name} -l {langs} --echo src` on a machine that "
            f"has one and copy its ~/.sacrebleu/{fresh.name} to {place}"
        ) from error


def _is_of_the_cache(error: BaseException) -> bool:
    """Whether the system refused to write, and not the network."""
    return (
        isinstance(error, OSError)
        and not isinstance(error, URLError)
        and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT))
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "what came is not the file whose checksum sacreBLEU has"
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    is_clear = isinstance(error, (OSError, HTTPException)) and str(error)
    return str(error) if is_clear else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _bounded_and_silent() -> Iterator[None]:
    """Within the block the network's silence is an error after a while, and sacreBLEU logs nothing."""
    log = logging.getLogger("sacrebleu")
    timeout, was_disabled = socket.getdefaulttimeout(), log.disabled
    socket.setdefaulttimeout(_NETWORK_SECONDS)
    log.disabled = True
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        log.disabled = was_disabled


def _downloads_are_missing(dataset: Dataset) -> bool:
    files = (Path(dataset._rawdir, dataset._get_tarball_filename(url)) for url in dataset.data or ())
    return not all(file.is_file() and file.stat().st_size for file in files)


def _damaged(dataset: Dataset, langs: str, reason: str) -> InputError:
    return InputError(
        f"test set {dataset.name} {langs}: damaged or not complete in {dataset._outdir} ({' '.join(reason.split())}); "
        "delete that directory, to have it downloaded again"
    )


def _do_nothing() -> None:
    pass

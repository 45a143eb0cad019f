"""The languages that the names of files and of columns tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from transformer_mt.data.readers.languages import are_languages, code_of_name, is_language
from transformer_mt.errors import InputError
from transformer_mt.recipes.languages import MaybeCodes

_CODE = re.compile(r"([a-z]{2,3})(?:[-_][a-z]{4})?(?:[-_][a-z]{2})?", re.IGNORECASE)
_TWO_CODES = re.compile(r"(?:^|_)([a-z]{2,3})[-_]([a-z]{2,3})$", re.IGNORECASE)
_LOCALE = r"(?<![A-Za-z])[a-z]{2,3}(?:[-_][A-Z][a-z]{3})?[-_][A-Z]{2}(?![A-Za-z])"  # en_US, zh-Hans-CN
_TWO_LOCALES = re.compile(rf"({_LOCALE})[-_.]({_LOCALE})")
_NO_CODES = {
    *("src", "tgt", "trg", "ref", "hyp", "txt", "tok", "raw", "bpe", "new", "old", "in", "out", "and", "to", "all"),
    *("dev", "set", "one", "two", "lhs", "rhs"),
}
_NO_SCRIPTS = tuple(f"{mark}{word}" for mark in "-_" for word in ("text", "lang", "sent", "line", "code", "word"))
# Of columns beside those of text; some are codes as well.
_BESIDE = {"id", "idx", "sid", "uid", "key", "nr", "no", "num", "row", "tag", "url", "doc"}
# What stands beside a language above a column: source_en, "German text".
_WITH_LANGUAGE = {"text", "sentence", "segment", "string", "source", "src", "target", "tgt", "trg", "translation"}
_OF_COUNTRY = {"cn": "zh", "jp": "ja", "kr": "ko", "cz": "cs", "ua": "uk"}  # that people write for the language's


def check_codes(asked: MaybeCodes) -> None:
    """Refuse the names of languages, and codes of countries that are no languages'.

    Raises:
        InputError: such a one; the message has the code that was meant.
    """
    for code, option in zip(asked, ("--src-lang", "--tgt-lang"), strict=True):
        meant = None if code is None else code_of_name(code)
        if code is not None and not is_language(code):
            meant = meant or _OF_COUNTRY.get(code.lower())
        if meant is not None:
            raise InputError(f"{option} {code}: is no language's code; say {option} {meant}")


def codes_of_names(src: str, tgt: str) -> MaybeCodes:
    """Return the languages of two files by what differs in their paths: train.en and train.de, en/text and de/text."""
    for separators in "/.", "/._", "/._-":
        # Locales are not cut: en_US is one part.
        parts = [re.findall(rf"{_LOCALE}|[^{separators}]+", path) for path in (src, tgt)]
        if len(parts[0]) == len(parts[1]):
            for one, other in reversed([*zip(*parts, strict=True)]):
                if one != other and all(
                    is_code(code) and is_language(re.split("[-_]", code)[0]) for code in (one, other)
                ):
                    return written(one), written(other)
    return None, None


def codes_of_file(path: str) -> MaybeCodes:
    """Return the languages of a file of pairs by its name: corpus.en-de.tsv. ko-KR.tsv tells one only."""
    name = Path(path).name
    if locales := _TWO_LOCALES.search(name):
        return locales[1], locales[2]
    for part in re.split(r"[.]+", re.sub(_LOCALE, "", name))[::-1]:
        found = _TWO_CODES.search(part)
        if found and all(map(is_code, found.groups())) and are_languages(*found.groups()):
            return written(found[1]), written(found[2])
    return None, None


def languages_of_header(names: Sequence[str]) -> dict[str, str]:
    """Return the columns that are called like languages, and their codes; none where they are words: "Hi", "Tag"."""
    possible = [name for name in names if names.count(name) == 1 and not (len(names) > 2 and is_beside(name))]
    found = {name: code for name in possible if (code := _of_column(name))}
    plain = {name: code for name, code in found.items() if is_code(name.strip()) or code_of_name(name)}
    # Beside "English" there may be "English (old)", which is no other language.
    found = plain if len(plain) == 2 else {n: c for n, c in found.items() if n in plain or c not in plain.values()}
    bare = {name.strip(): code for name, code in found.items() if code == written(name.strip())}
    if not all(_is_known(code) for code in bare.values()):  # then "ice" and "Eis" are words, eng and hsb languages
        is_header = any(map(_is_known, found.values())) and (all(map(str.islower, bare)) or all(map(str.isupper, bare)))
        return found if is_header else {}
    is_word = len(found) == len(bare) == 1 and (len(names) == 2 or next(iter(bare)).istitle())
    return {} if is_word else found


def is_beside(name: str) -> bool:
    """Return whether a column is called like one that has no text: id, string_id."""
    return re.split(r"[\s_-]+", name.strip().lower())[-1] in _BESIDE


def _of_column(name: str) -> str | None:
    bare = re.sub(r"\(.*?\)", "", name).strip()
    words = re.split(r"[\s_-]+", bare)
    rest = [word for word in words if word.lower() not in _WITH_LANGUAGE]
    if len(rest) < len(words):
        bare = "_".join(rest)
    if is_code(bare):
        code = _OF_COUNTRY.get(bare.lower(), written(bare))
        return code if bare == name.strip() or _is_known(code) else None
    return code_of_name(bare)


def _is_known(code: str) -> bool:
    return are_languages(code, code)


def is_code(text: str) -> bool:
    """Return whether a text looks like a language's code, and like no word that often stands in its place."""
    found = _CODE.fullmatch(text)
    return found is not None and found[1].lower() not in _NO_CODES and not text.lower().endswith(_NO_SCRIPTS)


def written(code: str) -> str:
    """Return a code as it is written as a rule: EN as en, en-US as it is."""
    return code.lower() if code.isupper() else code

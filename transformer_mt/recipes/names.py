"""The languages that the names of files and of columns tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from transformer_mt.data.readers.languages import are_languages, code_of_name, is_language
from transformer_mt.errors import InputError
from transformer_mt.recipes.languages import UNKNOWN, MaybeCodes
from transformer_mt.system.compression import COMPRESSED

# ISO 15924's names of scripts, as codes of languages have them; en_test and key_name have none.
_SCRIPT = (
    "(?i:Adlm|Arab|Armn|Cans|Cher|Cyrl|Deva|Ethi|Geor|Grek|Gujr|Guru|Hang|Hans|Hant|Hebr|Jpan|Khmr|Knda|Kore|Laoo|"
    "Beng|Latn|Lisu|Mlym|Mong|Mtei|Mymr|Nkoo|Olck|Orya|Sinh|Syrc|Taml|Telu|"  # codespell:ignore
    "Tfng|Thaa|Thai|Tibt|Vaii|Yiii)"
)
_REGION = "(?:[A-Z]{2}|419)"  # other numbers are those of parts: en_001
# In small letters only these, and those of the language itself (de_de): others end the names of files, as en_tc, en_ok.
_SMALL_REGION = r"(?i:us|gb|uk|ca|au|nz|za|mx|br|cn|tw|hk|jp|kr|at|ch|be|\1)"
_CODE = re.compile(rf"([A-Za-z]{{2,3}})(?:[-_]{_SCRIPT})?(?:[-_](?:{_REGION}|{_SMALL_REGION}))?")
_LOCALE = (  # en_US, zh-Hans-CN, eng_Latn
    rf"(?<![A-Za-z])[a-z]{{2,3}}(?:[-_]{_SCRIPT}(?:[-_]{_REGION})?|[-_]{_REGION})(?![A-Za-z])"
)
_WORD_OR_MARK = re.compile(rf"{_LOCALE}|[^-_.]+|[-_.]")
_NO_CODES = {
    *("src", "tgt", "trg", "ref", "hyp", "txt", "tok", "raw", "bpe", "new", "old", "in", "out", "and", "to", "all"),
    *("dev", "set", "one", "two", "lhs", "rhs"),
}
_CODES_TOO = {"in", "to"}  # of those; beside another code they are Indonesian's old one and Tongan's
# Of columns beside those of text; some are codes as well.
_BESIDE = {"id", "idx", "sid", "uid", "key", "nr", "no", "num", "row", "tag", "url", "doc", "lp", "pe"}
# Where two other languages have columns, these are no Shona and Maltese but a number, and what a machine has made.
_MAYBE_BESIDE = {"sn", "mt"}
_BESIDE_MACHINES = {"src", "ref", "pe", "hyp"}  # beside one of which it is no Maltese either
# What stands beside a language above a column, also as several: source_en, "German texts".
_WITH_LANGUAGE = {
    *("text", "sentence", "segment", "string", "phrase", "word"),
    *("source", "src", "target", "tgt", "trg", "translation"),
}
_FEWEST_CODES = 10  # rows of which a column has them
_NO_COUNTRIES = {"en", "ja", "ko", "zh", "hi", "ur", "fa", "el", "da"}  # of the languages' codes; br is Brazil, too
_OF_COUNTRY = {"cn": "zh", "jp": "ja", "kr": "ko", "cz": "cs", "ua": "uk"}  # that people write for the language's


def check_codes(asked: MaybeCodes) -> None:
    """Refuse the names of languages, codes of countries that are no languages', and what is no code at all.

    Raises:
        InputError: such a one; the message has the code that was meant.
    """
    for code, option in zip(asked, ("--src-lang", "--tgt-lang"), strict=True):
        meant = None if code is None else code_of_name(code)
        if code is not None and not is_language(code):
            meant = meant or _OF_COUNTRY.get(code.lower())
        if meant is not None:
            raise InputError(f"{option} {code}: is no language's code; say {option} {meant}")
        if code is not None and not re.fullmatch("[\\w@-]+", code):
            raise InputError(f"{option} {code}: is no language's code; say one, as en or zh-Hans")


def codes_of_names(src: str, tgt: str) -> MaybeCodes:
    """Return the languages of two files by what differs in their paths: train.en and train.de, en/text and de/text,
    English.txt and German.txt."""
    of_one: MaybeCodes = None, None
    for separators in "/.", "/._", "/._ -":
        # Locales are not cut: en_US is one part.
        parts = [re.findall(rf"{_LOCALE}|[^{separators}]+", path) for path in (src, tgt)]
        if len(parts[0]) == len(parts[1]):
            for one, other in reversed([*zip(*parts, strict=True)]):
                src_code, tgt_code = map(_language, _behind_a_word(one, other) or (one, other))
                if src_code and tgt_code and src_code != tgt_code:
                    return src_code, tgt_code
                if one != other and (code_of_name(one) or code_of_name(other)):  # English and Mixtec
                    of_one = src_code or UNKNOWN, tgt_code or UNKNOWN
    ends = [Path(path).with_suffix("") if Path(path).suffix in COMPRESSED else Path(path) for path in (src, tgt)]
    one, other = (path.suffix[1:] for path in ends)
    if one != other and is_code(one) and is_code(other) and are_languages(one, other):
        return written(one), written(other)  # in folders of different depth
    return of_one


def _behind_a_word(one: str, other: str) -> tuple[str, str] | None:
    """Return the languages of names that look like locales, but differ in a language behind the same word: ted_en and
    ted_de, my_en and my_de. pt_br and pt_pt, fr_BE and fr_CA are locales."""
    (word, *codes), (its_word, *its_codes) = (re.split("[-_]", name) for name in (one, other))
    if word != its_word or len(codes) != 1 or len(its_codes) != 1 or codes == its_codes:
        return None
    found = codes[0], its_codes[0]
    is_locale = _is_known(word) and _NO_COUNTRIES.isdisjoint(map(str.lower, found))
    return None if is_locale or not are_languages(*found) else found


def codes_of_file(path: str) -> MaybeCodes:
    """Return the languages of a file of pairs by its name: corpus.en-de.tsv, en2de.tsv. ko-KR.tsv tells one only."""
    name = re.sub(r"(?<![a-z])([a-z]{2,3})2([a-z]{2,3})(?![a-z])", r"\1-\2", Path(path).name)
    words = _WORD_OR_MARK.findall(name)
    codes = [*map(_language, words)]
    beside = [*zip(codes, words[1:], codes[2:], words[3:], strict=False)]
    for mark in "-_.":  # of my_en-de, the languages are en and de
        found = [
            (one, other)
            for one, its_mark, other, end in beside
            if one
            and its_mark == mark
            and other
            # Elsewhere than at the end, what is not in the table may be any word.
            and ((_is_known(one) and _is_known(other)) or (mark != "." and end == "." and are_languages(one, other)))
        ]
        if len(found) == 1:
            return found[0]
    return None, None


def languages_of_header(names: Sequence[str]) -> dict[str, str]:
    """Return the columns that are called like languages, and their codes; none where they are words: "Hi", "Tag"."""
    possible = [name for name in names if names.count(name) == 1 and not (len(names) > 2 and is_beside(name))]
    found = {name: code for name in possible if (code := _of_column(name))}
    if len(names) == 2 and len(found) == 1:
        words = {name: name.strip().lower() for name in names}
        found = {name: found.get(name, word) for name, word in words.items() if name in found or word in _CODES_TOO}
    surer = {name: code for name, code in found.items() if name.strip().lower() not in _MAYBE_BESIDE}
    if len(surer) > 1 or not _BESIDE_MACHINES.isdisjoint(name.strip().lower() for name in names):
        found = surer
    if len(found) < 2:
        found = _alike(names) or found
    plain = {name: code for name, code in found.items() if is_code(name.strip()) or code_of_name(name)}
    # Beside "English" there may be "English (old)", which is no other language.
    found = plain if len(plain) == 2 else {n: c for n, c in found.items() if n in plain or c not in plain.values()}
    bare = {name.strip(): code for name, code in found.items() if code == written(name.strip())}
    if not all(_is_known(code) for code in bare.values()):  # then "ice" and "Eis" are words, eng and hsb languages
        is_header = any(map(_is_known, found.values())) and (all(map(str.islower, bare)) or all(map(str.isupper, bare)))
        if not is_header:
            found = {name: code for name, code in found.items() if len(name.strip()) > 3}  # beside en-US, Foo is a word
        return found if len(found) > 1 else {}
    is_word = len(found) == len(bare) == 1 and (len(names) == 2 or next(iter(bare)).istitle())
    return {} if is_word else found


def _alike(names: Sequence[str]) -> dict[str, str]:
    """Return the columns that are called alike but for a language, and their codes: label_en and label_de."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        words = [word for word in re.split(r"[\s_()]+", name.strip()) if word]
        if len(words) != 2 or not re.search(r"[_()]", name):  # "Say no" is text
            continue
        for word, other in (words, words[::-1]):
            code = code_of_name(other) or (is_code(other) and _is_known(other) and written(other))
            if code and word.lower() not in _BESIDE:
                found.setdefault(word.lower(), {})[name] = code
    pairs = [columns for columns in found.values() if 1 < len(columns) == len({*columns.values()})]
    return pairs[0] if len(pairs) == 1 else {}


def is_beside(name: str) -> bool:
    """Return whether a column is called like one that has no text: id, string_id."""
    return re.split(r"[\s_-]+", name.strip().lower())[-1] in _BESIDE


def without_parentheses(name: str) -> str:
    """Return a column's name without what stands in parentheses: "Source" for "Source (EN)"."""
    return re.sub(r"\([^()]*\)", "", name).strip()


def _of_column(name: str) -> str | None:
    bare = without_parentheses(name)
    words = re.split(r"[\s_/-]+", bare)
    rest = [word for word in words if word.lower().removesuffix("s") not in _WITH_LANGUAGE]
    if len(rest) < len(words):
        bare = "_".join(rest)
    if is_code(bare) and not (len(rest) < len(words) and re.fullmatch("[A-Z][a-z]+", bare)):  # "No text" is text
        code = _OF_COUNTRY.get(bare.lower(), written(bare))
        return code if bare == name.strip() or _is_known(code) else None
    return code_of_name(name) or code_of_name(bare)  # Chinese (Traditional), English (US)


def are_codes(cells: Sequence[str], name: str) -> bool:
    """Return whether a column, by its name and its text, has the language that each row is in: en, hsb, en, …"""
    values = {*cells}
    is_short = len(cells) >= _FEWEST_CODES and 5 * len(values) <= len(cells)
    # Three letters may be any language's: one is in the table, or the name says what they are.
    is_sure = name.strip().lower().endswith(("lang", "language", "locale")) or any(map(_is_known, values))
    words = [_WORD_OR_MARK.findall(value)[::2] for value in values]  # also of two: en-de
    return is_short and is_sure and all(one and all(map(is_code, one)) for one in words)


def _is_known(code: str) -> bool:
    return are_languages(code, code)


def is_code(text: str) -> bool:
    """Return whether a text looks like a language's code, and like no word that often stands in its place."""
    found = _CODE.fullmatch(text)
    return found is not None and found[1].lower() not in _NO_CODES


def _language(word: str) -> str | None:
    """Return the code that a word of a file's name is, or that of the language that it names."""
    return written(word) if is_code(word) and is_language(re.split("[-_]", word)[0]) else code_of_name(word)


def written(code: str) -> str:
    """Return a code as it is written as a rule: EN and En as en, EN-US as en-US."""
    return re.sub("^[A-Za-z]+", lambda language: language[0].lower(), code)

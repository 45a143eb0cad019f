"""The scripts of letters, by Unicode's property of characters; and which are written without spaces."""

from __future__ import annotations

import difflib
import re
import unicodedata

import regex

from transformer_mt.errors import InputError

# The scripts in use today by their Unicode names, those of Unicode's annex 31, tables 5 and 7, and two
# more that have Bibles.
SCRIPTS = frozenset(
    name
    for names in (
        "Arabic, Armenian, Bengali, Bopomofo, Cyrillic, Devanagari, Ethiopic, Georgian, Greek, Gujarati, Gurmukhi, Han",
        "Hangul, Hebrew, Hiragana, Kannada, Katakana, Khmer, Lao, Latin, Malayalam, Myanmar, Oriya, Sinhala, Tamil",
        "Telugu, Thaana, Thai, Tibetan, Adlam, Balinese, Bamum, Batak, Canadian Aboriginal, Chakma, Cham, Cherokee",
        "Hanifi Rohingya, Javanese, Kayah Li, Lepcha, Limbu, Lisu, Mandaic, Meetei Mayek, Miao, Mongolian, New Tai Lue",
        "Newa, Nko, Nyiakeng Puachue Hmong, Ol Chiki, Osage, Saurashtra, Sundanese, Syloti Nagri, Syriac, Tai Le",
        "Tai Tham, Tai Viet, Tifinagh, Vai, Wancho, Yi, Coptic, Gothic",  # codespell:ignore
    )
    for name in names.split(", ")
)

# A script a group, so that the number of the group that matched tells which.
_NAMES = ("", *sorted(SCRIPTS))
_SCRIPT = regex.compile("|".join(rf"(\p{{Script={name.replace(' ', '_')}}})" for name in _NAMES[1:]))
_SHARED = regex.compile(r"[\p{Script=Common}\p{Script=Inherited}]")

# Scripts written without spaces between words, with their digits and the full-width punctuation (inside a character
# class): Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Han. Korean has spaces. Ranges, because each sentence pair
# is searched for them: with properties `regex` takes 6 to 13 times as long as `re` with these.
UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3000-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9fe\uaa60-\uaa7f\uf900-\ufaff\uff00-\uff9f\U00016fe3\U0001aff0-\U0001b167\U00020000-\U0003ffff"
)
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")  # what stands between white space; there, each character


def script_of(character: str) -> str | None:
    """The script of a character: one of `SCRIPTS`, or "other"; None where scripts share it, as accents are."""
    plain = unicodedata.normalize("NFKC", character)[0]  # ª, ﬁ, 𝐟, ㅎ and full width, too
    if plain == "ー":  # shared by Hiragana, which hardly has it
        return "Katakana"
    if found := _SCRIPT.match(plain):
        return _NAMES[found.lastindex or 0]
    return None if _SHARED.match(plain) else "other"


class Alphabet(dict[str, bool | None]):
    """Whether a letter is of some scripts, for those seen so far; None for other characters and shared letters."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            if name not in SCRIPTS:
                nearest = difflib.get_close_matches(name.title(), sorted(SCRIPTS), n=1, cutoff=0)[0]
                raise InputError(f"data.clean.scripts: unknown script '{name}'; the nearest known one is '{nearest}'")
        self._names = frozenset(names)
        self._innocent: set[str] = set()  # all but letters of other scripts

    def __missing__(self, character: str) -> bool | None:
        script = script_of(character) if character.isalpha() else None
        self[character] = found = None if script is None else script in self._names
        if found is not False:
            self._innocent.add(character)
        return found

    def share(self, text: str) -> float:
        """Which part of a text's letters is of these scripts; one where there are none."""
        if ("Latin" in self._names and text.isascii()) or self._innocent.issuperset(text):
            return 1.0
        kinds = [self[character] for character in text]
        own, foreign = kinds.count(True), kinds.count(False)
        return own / (own + foreign) if foreign else 1.0

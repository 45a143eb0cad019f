"""The scripts of letters, by their Unicode names."""

from __future__ import annotations

import difflib
import re
import unicodedata

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


# How a character's name begins; the name of its script, but for these.
_BEGINNINGS = {name.upper(): name for name in SCRIPTS} | {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "CANADIAN SYLLABICS": "Canadian Aboriginal",
}


_BEGINNING = re.compile(rf"(?:{'|'.join(_BEGINNINGS)})\b")


def is_of_scripts(character: str, names: frozenset[str]) -> bool | None:
    """Whether a letter is of one of these scripts; None for other characters and letters that scripts share."""
    if not character.isalpha():
        return None
    name = unicodedata.name(unicodedata.normalize("NFKC", character)[0], "")  # ª, ﬁ, ㅎ and full width, too
    if name.startswith("MODIFIER LETTER"):  # apostrophes and tone marks
        return None
    beginning = _BEGINNING.match(name)
    return beginning is not None and _BEGINNINGS[beginning[0]] in names


class Alphabet(dict[str, bool | None]):
    """`is_of_scripts` of the characters seen so far."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            if name not in SCRIPTS:
                nearest = difflib.get_close_matches(name.title(), sorted(SCRIPTS), n=1, cutoff=0)[0]
                raise InputError(f"data.clean.scripts: unknown script '{name}'; the nearest known one is '{nearest}'")
        self._names = frozenset(names)
        self._innocent: set[str] = set()  # all but letters of other scripts

    def __missing__(self, character: str) -> bool | None:
        self[character] = found = is_of_scripts(character, self._names)
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

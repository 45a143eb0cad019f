"""Rules on one sentence pair, each with a reason; keys of pairs to find duplicates by; counts of the reasons.

Cleaning rejects whole pairs; it changes no text beyond stripping the white space around each side. Of hundreds of
millions of pairs each passes here: a rule that is off costs nothing, and one that is on looks at the whole text with
compiled code and at single characters only where that has found some.

    pair, reason = clean(SentencePair("A dog .", "Ein Hund ."), CleanConfig(), "en", "de")
    report.count(reason, pair, place=17)
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import unicodedata
from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from html.entities import html5
from typing import Any, Literal, NamedTuple

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.errors import InputError
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.text.loops import has_loop
from transformer_mt.text.sentences import UNSPACED

MAX_EXAMPLES = 5  # of each reason
MAX_EXAMPLE_CHARS = 300  # of each side

_IS_UNSPACED = re.compile(f"[{UNSPACED}]")

# Cc but the tab, lone surrogates, private use, U+FFFD and what is no character. U+0085 too: inside text it was an
# ellipsis in another encoding. Not U+2028, nor what has no width (Cf), which some scripts need.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\uf8ff\ufdd0-\ufdef\ufffd-\uffff\U000f0000-\U0010ffff]")

# A tag of any name, so that XML and placeholders such as <file> are some, but what follows the name is attributes:
# a < b, x <y and z> w and <3 are none.
_TAG = re.compile(r"<(?:/?[A-Za-z][A-Za-z0-9-]*+(?:\s[^<>=]*+=[^<>]*+|\s*+/?)>|!--)")
_REFERENCE = re.compile(r"&(?:#(?:\d+|[xX][0-9A-Fa-f]+)|([A-Za-z][A-Za-z0-9]*+));")

# ASCII, so that an address ends where Chinese text goes on or a Korean particle follows.
_ADDRESS = re.compile(
    r"(?:(?:https?|ftp)://|(?<![a-z0-9.])www\.)[a-z0-9!#$%&'()*+,\-./:;=?@\[\]_~]+"
    r"|(?<![a-z0-9._%+-])[a-z0-9._%+-]++@[a-z0-9-]+(?:\.[a-z0-9-]+)+",
    re.ASCII | re.IGNORECASE,
)
_AFTER_ADDRESS = ".,:;!?'()[]*_~/"

# A run of digits, and groups of three behind it: 1,000 or 1.000 or 1 000 (the first has three at most), 10,00,000 in
# India. What follows a decimal mark is a number by itself, and so are the parts of a date.
_NUMBER = re.compile(r"\d+(?:(?<!\d{4})(?:[.,'’٬ \u00a0\u2009\u202f]\d{3}|(?:,\d\d){1,3},\d{3})(?!\d))*")
_NO_DIGITS = re.compile(r"\D+")


class SentencePair(NamedTuple):
    src: str
    tgt: str


class Verdict(NamedTuple):
    """What became of a pair: its stripped text, and why it was rejected (``None``: kept)."""

    pair: SentencePair
    reason: str | None


def check_rules(rules: CleanConfig, src_lang: str, tgt_lang: str) -> None:
    """Refuse rules that cannot be applied, before the first pair; what they need is loaded, for forked processes too.

    Raises:
        InputError: a script or a language that is not known, or a package that is missing.
    """
    for names in rules.scripts.values():
        _alphabet(names)
    if rules.min_language_probability is not None:
        _language_label(src_lang)
        _language_label(tgt_lang)


def clean(pair: SentencePair, rules: CleanConfig, src_lang: str = "", tgt_lang: str = "") -> Verdict:
    """Strip both sides and judge the pair by the first rule that it breaks, cheap ones first.

    Raises:
        InputError: as `check_rules`.
    """
    pair = SentencePair(pair.src.strip(), pair.tgt.strip())
    return Verdict(pair, _broken_rule(pair, rules, src_lang, tgt_lang))


def _broken_rule(pair: SentencePair, rules: CleanConfig, src_lang: str, tgt_lang: str) -> str | None:
    src, tgt = pair
    if not (src and tgt):
        return "empty"
    if src == TOO_LONG or tgt == TOO_LONG:
        return "too_long_line"
    if rules.drop_identical and src == tgt:
        return "identical"
    if rules.max_chars is not None and (len(src) > rules.max_chars or len(tgt) > rules.max_chars):
        return "too_long_characters"
    if rules.max_char_ratio is not None and _ratio(len(src), len(tgt)) > rules.max_char_ratio:
        return "length_ratio"
    if rules.max_word_ratio is not None and _has_word_ratio(src, tgt, rules.max_word_ratio):
        return "word_ratio"
    if rules.max_word_chars is not None and max(map(len, src.split() + tgt.split())) > rules.max_word_chars:
        return "word_too_long"
    if rules.drop_control_characters and (_CONTROL.search(src) or _CONTROL.search(tgt)):
        return "control_characters"
    if rules.drop_html and (_has_html(src) or _has_html(tgt)):
        return "html"
    if rules.match_urls and _addresses(src) != _addresses(tgt):
        return "url_mismatch"
    if rules.min_number_overlap is not None and _number_overlap(src, tgt) < rules.min_number_overlap:
        return "number_mismatch"
    # Leaders of a table of contents, too: from dots that only one side has a model learns to go on and on.
    if rules.max_repeats is not None and has_loop(src, rules.max_repeats + 1) != has_loop(tgt, rules.max_repeats + 1):
        return "repeated_ngram"
    if rules.scripts:
        for text, lang in ((src, src_lang), (tgt, tgt_lang)):
            names = rules.scripts.get(lang)
            if names is not None and _alphabet(names).share(text) < rules.min_script_share:
                return "wrong_script"
    if rules.min_language_probability is not None:
        for text, lang in ((src, src_lang), (tgt, tgt_lang)):
            if not _is_language(text, _language_label(lang), rules.min_language_probability):
                return "wrong_language"
    return None


def _ratio(src: int, tgt: int) -> float:
    return src / tgt if src > tgt else tgt / src


def _has_word_ratio(src: str, tgt: str, limit: float) -> bool:
    """Whether one side has so many times the other's words.

    Nobody can say where words end in scripts without spaces; `max_char_ratio` is for pairs that have one.
    """
    if _ratio(len(src.split()), len(tgt.split())) <= limit:
        return False
    return not (_IS_UNSPACED.search(src) or _IS_UNSPACED.search(tgt))


def _has_html(text: str) -> bool:
    if "<" in text and _TAG.search(text):
        return True
    if "&" in text:
        for name in _REFERENCE.findall(text):
            if not name or f"{name};" in html5:  # R&D; is no reference
                return True
    return False


def _addresses(text: str) -> set[str]:
    """The web and e-mail addresses, in lower case, without the marks that end them or the sentence."""
    if "://" in text or "@" in text or "www." in text or "WWW." in text:
        return {address.rstrip(_AFTER_ADDRESS).lower() for address in _ADDRESS.findall(text)}
    return set()


def _number_overlap(src: str, tgt: str) -> float:
    """How many of both sides' numbers have a partner on the other; one where there are none."""
    src_numbers, tgt_numbers = _NUMBER.findall(src), _NUMBER.findall(tgt)
    if src_numbers == tgt_numbers:
        return 1.0
    common = Counter(map(_plain_number, src_numbers)) & Counter(map(_plain_number, tgt_numbers))
    return 2 * common.total() / (len(src_numbers) + len(tgt_numbers))


def _plain_number(number: str) -> str:
    """Digits of any script as ASCII, without separators and leading zeros."""
    digits = _NO_DIGITS.sub("", number)
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    return digits.lstrip("0")


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


def _is_of_scripts(character: str, names: frozenset[str]) -> bool | None:
    """Whether a letter is of one of these scripts; None for other characters and letters that scripts share."""
    if not character.isalpha():
        return None
    name = unicodedata.name(unicodedata.normalize("NFKC", character)[0], "")  # ª, ﬁ, ㅎ and full width, too
    if name.startswith("MODIFIER LETTER"):  # apostrophes and tone marks
        return None
    beginning = _BEGINNING.match(name)
    return beginning is not None and _BEGINNINGS[beginning[0]] in names


class _Alphabet(dict[str, bool | None]):
    """`_is_of_scripts` of the characters seen so far."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            if name not in SCRIPTS:
                nearest = difflib.get_close_matches(name.title(), sorted(SCRIPTS), n=1, cutoff=0)[0]
                raise InputError(f"data.clean.scripts: unknown script '{name}'; the nearest known one is '{nearest}'")
        self._names = frozenset(names)
        self._innocent: set[str] = set()  # all but letters of other scripts

    def __missing__(self, character: str) -> bool | None:
        self[character] = found = _is_of_scripts(character, self._names)
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


_alphabet = cache(_Alphabet)  # of each language's scripts


# What the identifier calls languages by a code of two letters, and their codes of three (ISO 639-2 and 639-3; of
# macrolanguages also the member that data sets name). Other codes are its own.
_LABELS = dict(
    code.split(":")
    for codes in (
        "afr:af amh:am arg:an ara:ar arb:ar asm:as aze:az azj:az bak:ba bel:be bul:bg ben:bn bre:br bos:bs cat:ca",
        "ces:cs cze:cs cym:cy dan:da deu:de ger:de dzo:dz ell:el gre:el eng:en epo:eo spa:es est:et ekk:et eus:eu",
        "baq:eu fas:fa per:fa pes:fa fin:fi fra:fr fre:fr fry:fy gle:ga gla:gd glg:gl guj:gu hau:ha heb:he hin:hi",
        "hrv:hr hat:ht hun:hu hye:hy arm:hy ind:id ibo:ig isl:is ice:is ita:it jpn:ja jav:jv kat:ka geo:ka kaz:kk",
        "khm:km kan:kn kor:ko kur:ku kmr:ku kir:ky lat:la ltz:lb lug:lg lin:ln lao:lo lit:lt lav:lv lvs:lv mlg:mg",
        "plt:mg mkd:mk mac:mk mal:ml mon:mn khk:mn mar:mr msa:ms may:ms zsm:ms mlt:mt mya:my bur:my nep:ne npi:ne",
        "nld:nl dut:nl nno:nn nob:no nor:no oci:oc orm:om gaz:om ori:or ory:or pan:pa pol:pl pus:ps pbt:ps por:pt",
        "que:qu quy:qu ron:ro rum:ro rus:ru kin:rw san:sa sin:si slk:sk slo:sk slv:sl sna:sn sqi:sq alb:sq srp:sr",
        "sot:st swe:sv swa:sw swh:sw tam:ta tgk:tg tuk:tk tgl:tl tur:tr tat:tt uig:ug ukr:uk urd:ur uzb:uz uzn:uz",
        "vol:vo wln:wa xho:xh yor:yo zho:zh chi:zh cmn:zh zul:zu nb:no iw:he in:id fil:tl ki:kik gn:gug",
        "wel:cy fao:fo sme:se som:so als:sq tel:te tha:th vie:vi",  # codespell:ignore
    )
    for code in codes.split()
)


@cache
def _identifier() -> Any:
    try:
        langid = importlib.import_module("py3langid.langid")
    except ImportError:
        raise InputError(
            "data.clean.min_language_probability: needs a package that is not here: pip install transformer-mt[langid]"
        ) from None
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


@cache
def _language_label(lang: str) -> str:
    """What the identifier calls a language: en for en-US, eng and eng_Latn."""
    labels = _identifier().labels
    code = re.split("[-_]", lang.lower())[0]
    label = _LABELS.get(code, code)
    if label not in labels:
        raise InputError(
            f"data.clean.min_language_probability: the language '{lang}' is not one of the {len(labels)} that can be "
            "told apart; remove the rule or correct the code"
        )
    return label


def _is_language(text: str, label: str, min_probability: float) -> bool:
    best, probability = _identifier().classify(text)
    if best != label:  # `rank` alone would do, in twice the time
        probability = dict(_identifier().rank(text))[label]
    return bool(probability >= min_probability)


Kind = Literal["exact", "near"]


class _NearCharacters(dict[int, str]):
    """What `str.translate` puts in a character's place so that near texts become equal; filled as they are seen."""

    def __missing__(self, code: int) -> str:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        self[code] = near = "".join(map(_near_character, folded))
        return near


def _near_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return "0"
    # No other marks than those of European scripts: a vowel sign of Hindi makes another word.
    is_ignored = category[0] in "PSZ" or category in ("Cc", "Cf") or "\u0300" <= character <= "\u036f"
    return "" if is_ignored else character


_NEAR_CHARACTERS = _NearCharacters()
_NUMBERS_OF_ZEROS = re.compile("00+")


def text_key(text: str, kind: Kind) -> int:
    """A 64-bit key that equal texts share, whatever the white space around them.

    Near texts share it too: those that differ in case, accents, digits, punctuation, symbols and white space only. A
    text that has nothing else is near to itself only.
    """
    return _key(_near(text) if kind == "near" else text.strip())


def duplicate_key(pair: SentencePair, kind: Kind) -> int:
    """The key of a pair: equal where those of both sides are."""
    src, tgt = (_near(pair.src), _near(pair.tgt)) if kind == "near" else (pair.src.strip(), pair.tgt.strip())
    return _key(f"{src}\n{tgt}")


def _near(text: str) -> str:
    near = text.translate(_NEAR_CHARACTERS)
    if not near.isascii():
        near = unicodedata.normalize("NFKD", near)  # the order of marks
    if "00" in near:
        near = _NUMBERS_OF_ZEROS.sub("0", near)
    return near or text.strip()


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


class Example(NamedTuple):
    """A rejected pair: its number over the corpus, and its text, cut where it is long."""

    place: int
    src: str
    tgt: str


@dataclass
class CleanReport:
    """How many pairs were kept, and how many rejected for each reason, with a few of these as examples.

    Later stages count reasons of their own into it, such as "too_many_src_tokens". The examples are a uniform sample of
    the pairs that came with their text, the same in whatever order and in however many reports they are counted. What
    `dataclasses.asdict` makes of a report, JSON can store, and ``CleanReport(**stored)`` is the report again.
    """

    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.examples = {reason: [Example(*fields) for fields in found] for reason, found in self.examples.items()}

    @property
    def num_pairs(self) -> int:
        return self.kept + sum(self.rejected.values())

    def count(self, reason: str | None, pair: SentencePair | None = None, place: int = 0) -> None:
        """Count one pair: rejected for this reason, or kept (``None``). ``place`` is its number over the corpus."""
        if reason is None:
            self.kept += 1
            return
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        if pair is not None:
            self._add_examples(reason, [Example(place, _cut(pair.src), _cut(pair.tgt))])

    def merge(self, other: CleanReport) -> None:
        """Add what another report has counted."""
        self.kept += other.kept
        for reason, number in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + number
        for reason, examples in other.examples.items():
            self._add_examples(reason, examples)

    def _add_examples(self, reason: str, examples: Iterable[Example]) -> None:
        found = self.examples.setdefault(reason, [])
        for example in examples:
            if len(found) < MAX_EXAMPLES or _rank(example) < _rank(found[-1]):
                insort(found, example, key=_rank)
        del found[MAX_EXAMPLES:]

    def summary(self) -> str:
        """One line, reasons in alphabetical order: "29,000 pairs: 28,731 kept, 12 empty, 257 length_ratio"."""
        counts = [(self.kept, "kept")] + [(self.rejected[reason], reason) for reason in sorted(self.rejected)]
        return f"{self.num_pairs:,} pairs: " + ", ".join(f"{number:,} {name}" for number, name in counts)


def _rank(example: Example) -> int:
    """A number by chance, but always the same: the lowest ones of all are a uniform sample, however they are found."""
    return _key(str(example.place))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_EXAMPLE_CHARS else text[: MAX_EXAMPLE_CHARS - 1] + "…"

"""Which rules of cleaning a corpus gets, by what each would leave out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.curation.common import percent, share
from transformer_mt.curation.stats import scripts_of
from transformer_mt.data.cleaning import clean
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.recipes.look import Look
from transformer_mt.recipes.writing import Choice
from transformer_mt.system.console import Tell

# A rule that leaves out more than this is not about faults of single pairs: the text is of that kind.
_MOST_REJECTED = 0.02

_RULES: tuple[tuple[str, Any, str], ...] = (
    ("drop_identical", True, "are copies instead of translations"),
    ("max_repeats", 4, "have words that repeat again and again on one side only"),
    (
        "drop_html",
        True,
        "have tags of HTML, or references as &apos; (which Moses' deescape-special-chars.perl makes text)",
    ),
    ("drop_control_characters", True, "have control characters, or what a wrong decoding leaves behind"),
)
_KANA = ("Hiragana", "Katakana")
_JAPANESE = ("Han", *_KANA)  # any line may be in one of them alone, whatever the rest is in
_RATIOS = (3.0, 4.0, 6.0, 9.0)


def rules_for(look: Look, languages: tuple[str, str], tell: Tell) -> list[Choice]:
    """Return the rules that find faults in the sample, each with how many pairs it leaves out; tell which find too
    many to be about faults."""
    choices = []
    if look.num_repeated or look.num_looked_at < look.num_pairs:
        found = share(look.num_repeated, look.num_looked_at)
        why = (
            f"{found} of the pairs looked at stand there before"
            if look.num_repeated
            else "not all pairs were looked at"
        )
        choices.append(Choice("duplicates", "exact", f"{why}: once is enough"))
    ratio = next((one for one in _RATIOS if _rejected(look.sample, max_char_ratio=one) <= _MOST_REJECTED / 2), None)
    if ratio is not None and (rejected := _rejected(look.sample, max_char_ratio=ratio)):
        why = f"{percent(rejected)} have one side so many times as long as the other, and cannot say the same"
        choices.append(Choice("max_char_ratio", ratio, why))
    for key, value, what in _RULES:
        rejected = _rejected(look.sample, **{key: value})
        if 0 < rejected <= _MOST_REJECTED:
            choices.append(Choice(key, value, f"{percent(rejected)} {what}"))
        elif rejected:
            tell(f"{percent(rejected)} of the pairs {what}: left in, as so many are; data.clean.{key} leaves them out")
    usual = CleanConfig()
    too_long = sum(clean(pair, usual, *languages).reason == "too_long_characters" for pair in look.sample)
    if 0 < too_long < len(look.sample):  # of all, init says that it is no text
        tell(
            f"{percent(too_long / len(look.sample))} of the pairs have more than {usual.max_chars:,} characters on a "
            "side and are left out (data.clean.max_chars); one sentence a line is expected"
        )
    choices += _scripts(look, languages)
    return choices


def _rejected(sample: Sequence[SentencePair], languages: tuple[str, str] = ("", ""), **rules: Any) -> float:
    """Return the share of pairs that some rules leave out."""
    config = CleanConfig(max_chars=None, **rules)
    return sum(clean(pair, config, *languages).reason is not None for pair in sample) / len(sample)


def _scripts(look: Look, languages: tuple[str, str]) -> list[Choice]:
    """Return the scripts of both sides, where they are written in different ones."""
    sides = [scripts_of(side.classes) for side in (look.stats.src, look.stats.tgt)]
    main = [_main_script(side.classes) for side in (look.stats.src, look.stats.tgt)]
    if None in main or main[0] == main[1] or languages[0] == languages[1]:
        return []
    scripts = {
        language: [*_JAPANESE] if {*_KANA} & {*names} else [name for name in names if name != other]
        for language, names, other in zip(languages, sides, reversed(main), strict=True)
    }
    least = 0.2
    rejected = _rejected(look.sample, languages, scripts=scripts, min_script_share=least)
    if not 0 < rejected <= _MOST_REJECTED:
        return []
    return [
        Choice("scripts", scripts, f"{percent(rejected)} have a side with hardly a letter of its language"),
        Choice("min_script_share", least, "so few, as names and terms may stay in the other one's letters"),
    ]


def _main_script(classes: Counter[str]) -> str | None:
    names = scripts_of(classes)
    return max(names, key=classes.__getitem__) if names else None


def are_kept(sample: Sequence[SentencePair], rules: list[Choice], languages: tuple[str, str]) -> list[bool]:
    """Return which pairs of the sample pass the rules."""
    config = CleanConfig.model_validate({one.key: one.value for one in rules})
    return [clean(pair, config, *languages).reason is None for pair in sample]

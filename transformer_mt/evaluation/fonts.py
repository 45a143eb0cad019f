"""Fonts for the words in a picture, whatever their script: Matplotlib's own, and behind it those of the system."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from transformer_mt.system.console import Tell
from transformer_mt.text.scripts import script_of

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

_OWN = "DejaVu Sans"  # comes with Matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and a few more

# Noto's fonts for these have all of them, in the shapes that one country is used to.
_CJK = ("Han", "Hangul", "Hiragana", "Katakana", "Bopomofo")


def font_families(texts: Iterable[str], tell: Tell) -> list[str]:
    """Return the families that have the letters of these texts, to be tried in this order.

    ``tell`` hears of letters that no installed font has, a line for each script: boxes stand in their place.
    """
    from matplotlib.font_manager import findfont, fontManager
    from matplotlib.ft2font import FT2Font

    wanted = {character for text in texts for character in text if unicodedata.category(character)[0] not in "CZ"}
    lacking = _lacking(FT2Font(findfont(_OWN)), wanted)
    if not lacking:
        return [_OWN]
    scripts = defaultdict(set)
    for character in lacking:
        scripts[script_of(character)].add(character)
    country = "KR" if "Hangul" in scripts else "JP" if {"Hiragana", "Katakana"} & {*scripts} else "SC"

    def rank(face: FT2Font) -> tuple[object, ...]:
        """Rank fonts by the letters that they have; of equal ones, the plainest."""
        name, has = face.family_name, len(lacking) - len(_lacking(face, lacking))
        return has, name.endswith(country), "Sans" in name, "Mono" not in name, face.style_name == "Regular", -len(name)

    families, faces = [_OWN], list(_faces())
    # Signs that scripts share come last: the font of a script has its signs.
    for script in sorted(scripts, key=lambda name: (name is None, name or "")):
        lacking = scripts[script]
        for family in families[1:]:
            lacking = _lacking(FT2Font(findfont(family)), lacking)
        best = max(faces, key=rank, default=None)
        if lacking and best is not None and _lacking(best, lacking) != lacking:
            fontManager.addfont(os.fsdecode(best.fname))  # which may have been installed since Matplotlib last looked
            families.append(best.family_name)
            lacking = _lacking(best, lacking)
        if lacking:
            tell(_advice(script, sorted(lacking)))
    return families


def _lacking(face: FT2Font, characters: Iterable[str]) -> set[str]:
    return {character for character in characters if not face.get_char_index(ord(character))}


def _faces() -> Iterator[FT2Font]:
    """Yield all faces of all fonts that are installed, in an order that does not change."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    for path in sorted(findSystemFonts()):
        try:
            face = FT2Font(path)
            yield face
            yield from (FT2Font(path, face_index=number) for number in range(1, face.num_faces))
        except (OSError, RuntimeError):  # damaged, or of a kind that FreeType does not know
            continue


def _advice(script: str | None, characters: list[str]) -> str:
    what = "signs" if script in (None, "other") else f"{script} letters"
    if script in _CJK:
        advice = "Noto Sans CJK (Debian: fonts-noto-cjk)"
    elif script in (None, "other"):
        advice = "one that has them"
    else:
        advice = f"Noto Sans {script} (Debian: fonts-noto-core)"
    return (
        f"warning: no installed font has the {what} {' '.join(characters[:5])}{' …' if len(characters) > 5 else ''}; "
        f"the picture has boxes for them: install {advice}"
    )

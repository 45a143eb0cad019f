"""Which language a text is in, told by a classifier (the extra ``langid``)."""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any

from transformer_mt.errors import InputError

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
def language_label(lang: str) -> str:
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


def is_language(text: str, label: str, min_probability: float) -> bool:
    best, probability = _identifier().classify(text)
    if best != label:  # `rank` alone would do, in twice the time
        probability = dict(_identifier().rank(text))[label]
    return bool(probability >= min_probability)

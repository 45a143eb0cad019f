"""Language codes as files have them, beside those that are asked for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

MAX_CODES = 100  # of a file are looked at

# ISO 639: the two letters of a language, followed by its three.
_LETTERS = (
    "aaaar ababk aeave afafr akaka amamh anarg arara asasm avava ayaym azaze babak bebel bgbul bibis bmbam bnben "
    "bobod brbre bsbos cacat ceche chcha cocos crcre csces cuchu cvchv cycym dadan dedeu dvdiv dzdzo eeewe elell "
    "eneng eoepo esspa etest eueus fafas ffful fifin fjfij fofao frfra fyfry gagle gdgla glglg gngrn guguj gvglv "
    "hahau heheb hihin hohmo hrhrv hthat huhun hyhye hzher iaina idind ieile igibo iiiii ikipk ioido isisl itita "
    "iuiku jajpn jvjav kakat kgkon kikik kjkua kkkaz klkal kmkhm knkan kokor krkau kskas kukur kvkom kwcor kykir "
    "lalat lbltz lglug lilim lnlin lolao ltlit lulub lvlav mgmlg mhmah mimri mkmkd mlmal mnmon mrmar msmsa mtmlt "
    "mymya nanau nbnob ndnde nenep ngndo nlnld nnnno nonor nrnbl nvnav nynya ococi ojoji omorm orori ososs papan "
    "pipli plpol pspus ptpor quque rmroh rnrun roron rurus rwkin sasan scsrd sdsnd sesme sgsag sisin skslk slslv "
    "smsmo snsna sosom sqsqi srsrp ssssw stsot susun svswe swswa tatam tetel tgtgk ththa titir tktuk tltgl tntsn "
    "toton trtur tstso tttat twtwi tytah uguig ukukr ururd uzuzb veven vivie vovol wawln wowol xhxho yiyid yoyor "
    "zazha zhzho zuzul "
    # What libraries call some of them.
    "shhbs botib cscze cywel deger elgre eubaq faper frfre hyarm isice kageo mimao mkmac msmay mybur nldut rorum skslo "
    "sqalb zhchi "
    # The standard among several that share a code, as in the names of FLORES (arb_Arab).
    "sqals ararb azazj zhcmn etekk omgaz mnkhk lvlvs nenpi orory pspbt fapes mgplt ququy swswh uzuzn yiydd mszsm "
)
_OLD = {"iw": "he", "in": "id", "ji": "yi"}
_SCRIPTS_OF_CHINESE = {"cn": "hans", "sg": "hans", "tw": "hant", "hk": "hant", "mo": "hant"}
# What people write above a column, in English, in the language itself, and the commonest in other languages; with _ for
# what stands between the words of a name.
_NAMES = (
    "af afrikaans am amharic ar arabic ar العربية az azerbaijani be belarusian bg bulgarian bg български bn bengali "
    "bn bangla bs bosnian ca catalan ca català cs czech cs čeština cs česky cy welsh cy cymraeg da danish da dansk "
    "de german de deutsch el greek el ελληνικά en english eo esperanto es spanish es español es espanol et estonian "
    "et eesti eu basque eu euskara fa persian fa farsi fa فارسی fi finnish fi suomi fr french fr français "
    "fr francais ga irish ga gaeilge gl galician gl galego gu gujarati ha hausa he hebrew he עברית hi hindi hi हिन्दी "
    "hr croatian hr hrvatski hu hungarian hu magyar hy armenian id indonesian ig igbo is icelandic is íslenska "
    "it italian it italiano ja japanese ja 日本語 ka georgian kk kazakh km khmer kn kannada ko korean ko 한국어 "
    "ky kyrgyz la latin lb luxembourgish lo lao lt lithuanian lt lietuvių lv latvian lv latviešu mg malagasy mi maori "
    "mk macedonian ml malayalam mn mongolian mr marathi ms malay mt maltese mt malti my burmese nb bokmål ne nepali "
    "nl dutch nl nederlands nn nynorsk no norwegian no norsk oc occitan or odia pa punjabi pl polish pl polski "
    "ps pashto pt portuguese pt português qu quechua rm romansh ro romanian ro română ru russian "
    "ru русский rw kinyarwanda sd sindhi se sami si sinhala sk slovak sk slovenčina sl slovenian sl slovenščina "
    "sm samoan sn shona so somali sq albanian sq shqip sr serbian sr српски sr srpski sv swedish sv svenska "
    "sw swahili sw kiswahili ta tamil tg tajik th thai ti tigrinya tk turkmen tl tagalog tr turkish "
    "tr türkçe tt tatar ug uyghur uk ukrainian uk українська ur urdu uz uzbek vi vietnamese vi việt wo wolof "
    "xh xhosa yi yiddish yo yoruba zh chinese zh 中文 zu zulu "
    "fo faroese te telugu "  # codespell:ignore
    "en englisch fr französisch es spanisch it italienisch pt portugiesisch nl niederländisch ru russisch pl polnisch "
    "tr türkisch ar arabisch zh chinesisch ja japanisch ko koreanisch uk ukrainisch "
    "en anglais de allemand es espagnol it italien pt portugais nl néerlandais ru russe pl polonais tr turc ar arabe "
    "zh chinois ja japonais ko coréen uk ukrainien "
    "en inglés de alemán fr francés pt portugués nl neerlandés ru ruso pl polaco tr turco ar árabe zh chino ja japonés "
    "ko coreano uk ucraniano en inglese de tedesco fr francese es spagnolo pt portoghese ru russo ja giapponese "
    "en inglês de alemão fr francês en engels de duits fr frans es spaans en engelska de tyska fr franska "
    "en английский de немецкий fr французский es испанский en англійська de німецька "
    "en angielski de niemiecki fr francuski en anglicky en angličtina de německy de němčina en ingilizce de almanca "
    "en 영어 de 독일어 fr 프랑스어 zh 중국어 ja 일본어 en 英語 de ドイツ語 fr フランス語 zh 中国語 ko 韓国語 en 英文 "
    "en 英语 de 德语 fr 法语 ja 日语 ko 韩语 "
    # Of smaller communities, and varieties.
    "aa afar ab abkhaz ak akan an aragonese as assamese ay aymara ba bashkir bi bislama bm bambara bo tibetan br "
    "breton ce chechen ch chamorro co corsican cr cree cv chuvash dv dhivehi dv maldivian dz dzongkha ee ewe es "
    "castellano ff fula ff fulani fj fijian fy frisian gd scottish_gaelic gn guarani gn guaraní gv manx haw hawaiian "
    "haw ʻōlelo_hawaiʻi ht haitian ht haitian_creole iu inuktitut jv javanese kg kongo ki kikuyu kl greenlandic kr "
    "kanuri ku kurdish ku kurdî kv komi kw cornish lg luganda lg ganda li limburgish ln lingala mh marshallese mi "
    "māori nb norwegian_bokmål nb norsk_bokmål nn norwegian_nynorsk nn norsk_nynorsk nv navajo ny chichewa ny chewa "
    "ny nyanja oj ojibwe oj ojibwa om oromo or oriya os ossetian os ossetic rn kirundi sa sanskrit sc sardinian sg "
    "sango sh serbo-croatian ss swati ss swazi st sesotho st southern_sotho su sundanese tl filipino tn tswana tn "
    "setswana to tongan ts tsonga tw twi ty tahitian ve venda wa walloon yo yorùbá za zhuang am አማርኛ ti ትግርኛ ast "
    "asturian bem bemba bho bhojpuri ceb cebuano chr cherokee ckb sorani ckb kurdish_sorani ckb central_kurdish crh "
    "crimean_tatar dsb lower_sorbian grc ancient_greek gsw swiss_german hil hiligaynon hsb upper_sorbian ilo ilocano "
    "kab kabyle kmr kurmanji kmr kurdish_kurmanji lkt lakota mai maithili mni manipuri nah nahuatl nds low_german nso "
    "northern_sotho nso sepedi pap papiamento pcm nigerian_pidgin sah yakut sat santali scn sicilian sco scots se "
    "northern_sami sma southern_sami smj lule_sami smn inari_sami sms skolt_sami szl silesian tet tetum tpi tok_pisin "
    "tyv tuvan udm udmurt vec venetian yue cantonese zh-Hans simplified_chinese zh-Hans chinese_simplified zh-Hant "
    "traditional_chinese zh-Hant chinese_traditional pt-BR brazilian_portuguese"
)
_CODES = dict(zip(_NAMES.split()[1::2], _NAMES.split()[::2], strict=True))
_TWO = {code[2:]: code[:2] for code in _LETTERS.split()} | _OLD | _CODES


@lru_cache(1000)
def distance(wanted: str, found: str) -> int | None:
    """Return how far a language is from the one that is wanted: 0 for the same code, 1 where one of both names no
    variety or less of it (en for en-US, zh-Hans for zh-CN), 2 for another variety (en-GB for en-US), 3 for another
    script (zh-TW for zh-Hans), None for another language.

    A language is the same by its two letters, by its three and by its name: eng and English are en.
    """
    (one, variety), (other, its_variety) = map(_parts, (wanted, found))
    if one != other:
        return None
    if variety == its_variety:
        return 0
    (script, region), (its_script, its_region) = _script_and_region(one, variety), _script_and_region(one, its_variety)
    if script and its_script and script != its_script:
        return 3
    return 2 if region and its_region and region != its_region else 1


def primary(code: str) -> str:
    """Return the language of a code without its variety, by two letters where it has them: en of eng-US."""
    return _parts(code)[0]


def code_of_name(name: str) -> str | None:
    """Return the code of a language that is called by its name; None for anything else, also for a code."""
    words = re.split(r"[\s_()]+", unicodedata.normalize("NFC", name.lower()))
    return _CODES.get("_".join(filter(None, words)))


def is_language(code: str) -> bool:
    """Return whether a code of two letters is a language's, or a code has three, which most languages have."""
    return len(code) == 3 or code.lower() in _TWO.values() or code.lower() in _OLD


def are_languages(one: str, other: str) -> bool:
    """Return whether two codes are languages', by their first letters: both may be, and one of them is in the table."""
    first = [_parts(code)[0] for code in (one, other)]
    return all(map(is_language, first)) and any(code in _TWO.values() for code in first)


def nearest(wanted: str, names: Iterable[str]) -> list[str]:
    """Return those of a table's columns that are called like a language, by the nearest code: en, or else en-US."""
    far = [(distance(wanted, name), name) for name in names if " " not in name]  # "de-facto standard" is text
    least = min((one for one, _ in far if one is not None), default=None)
    return [name for one, name in far if least is not None and one == least]


def no_column(wanted: str, names: Iterable[str]) -> str:
    """Return that a table has no such column, or several of that language."""
    alike = nearest(wanted, names) if is_language(primary(wanted)) else []
    return f"no column {wanted!r}" + (f", but {len(alike)} of that language" if len(alike) > 1 else "")


def _parts(code: str) -> tuple[str, str]:
    """Return the language of a code or a name, by two letters where it has them, and the variety: not that in
    "English (US)"."""
    code = code_of_name(code) or code.partition("(")[0]
    language, _, variety = code.strip().lower().replace("_", "-").partition("-")
    return _TWO.get(language, language), variety


def _script_and_region(language: str, variety: str) -> tuple[str, str]:
    script = next((part for part in variety.split("-") if len(part) == 4), "")
    region = variety.removeprefix(script).strip("-")
    return script or (_SCRIPTS_OF_CHINESE.get(region, "") if language == "zh" else ""), region


def is_turned(wanted: tuple[str, str], found: tuple[str, str]) -> bool | None:
    """Return whether a file of two languages has them the other way round; None where they are not those wanted.

    An empty code, which a file does not tell, is any language.
    """
    straight, turned = (_sum(wanted, pair) for pair in (found, found[::-1]))
    if straight is None:
        return None if turned is None else True
    return turned is not None and turned < straight


def _sum(wanted: tuple[str, str], found: Iterable[str]) -> int | None:
    distances = [3 if not code else distance(one, code) for one, code in zip(wanted, found, strict=True)]
    return None if None in distances else sum(distances)  # type: ignore[arg-type]


def not_among(wanted: Iterable[str], found: Iterable[str]) -> str:
    """Return the refusal of a file that is not in each of the languages that are wanted."""
    found = [*dict.fromkeys(found)]
    wanted = [*wanted]
    missing = [lang for lang in wanted if all(distance(lang, code) is None for code in found)] or wanted
    codes, absent = ", ".join(filter(None, found)), " or ".join(map(repr, missing))
    if not codes:
        return f"no text in {absent}: it does not tell the languages of its texts; put their codes in"
    return f"no text in {absent}: its languages are {codes}; set src_lang and tgt_lang to two of them"

"""The built-in corpus: its promises (distinct, disjoint, deterministic, a function) and its German, written by hand."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from random import Random

import pytest

from transformer_mt.errors import InputError
from transformer_mt.toy_corpus import grammar, lexicon
from transformer_mt.toy_corpus.grammar import (
    VERSION,
    Split,
    english_question,
    english_statement,
    generate,
    german_statement,
    german_verb_first,
    german_verb_last,
    owned,
    phrase,
    prepositional,
    purpose,
    sentence,
    split_of,
)
from transformer_mt.toy_corpus.lexicon import (
    BY_GERMAN,
    DATIVE,
    IT,
    LEXICON,
    NOMINATIVE,
    NUMBERS,
    PRONOUN_TABLE,
    Clause,
    Pair,
    Phrase,
    Time,
)

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@pytest.fixture(scope="module")
def corpus() -> list[Pair]:
    return list(generate("train", 60_000, seed=5))


# ---------------------------------------------------------------- promises


def test_german_is_a_function_of_english() -> None:
    rng, seen, repeated = Random(11), dict[str, str](), 0
    for english, german in (sentence(rng) for _ in range(150_000)):
        repeated += english in seen
        assert seen.setdefault(english, german) == german, english
    assert len(seen) > 100_000
    assert repeated > 1_000  # else the assertion above had nothing to compare


def test_same_arguments_same_pairs_and_fewer_are_a_prefix() -> None:
    assert list(generate("train", 500, seed=3)) == list(generate("train", 2_000, seed=3))[:500]
    assert list(generate("train", 500, seed=3)) != list(generate("train", 500, seed=4))


def test_pairs_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    program = "from transformer_mt.toy_corpus.grammar import generate; print(*generate('valid', 40, 9), sep='\\n')"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == "\n".join(map(str, generate("valid", 40, 9))) + "\n"


def test_other_sentences_are_another_version() -> None:
    """Prepared corpora are found by it. Golden: it guards against change and says so."""
    digest = hashlib.sha256(str(list(generate("train", 20_000))).encode()).hexdigest()
    assert (VERSION, digest[:16]) == (1, "1d1cdf5bb8c0dc9c"), "raise VERSION, and note the new digest here"


def test_sources_are_distinct(corpus: list[Pair]) -> None:
    assert len({english for english, _ in corpus}) == len(corpus) == 60_000


def test_splits_are_disjoint_whatever_the_seed() -> None:
    sizes = {"train": 20_000, "valid": 300, "test": 300}
    sources = {
        split: {english for seed in (1, 2) for english, _ in generate(split, sizes[split], seed)} for split in SPLITS
    }
    assert not sources["train"] & sources["valid"]
    assert not sources["train"] & sources["test"]
    assert not sources["valid"] & sources["test"]


def test_splits_have_the_promised_sizes() -> None:
    rng = Random(2)
    splits = [split_of(sentence(rng)[0]) for _ in range(20_000)]
    for split in ("valid", "test"):
        assert 0.015 < splits.count(split) / len(splits) < 0.025


def test_a_sentence_never_changes_its_split(corpus: list[Pair]) -> None:
    for english, _ in [*corpus[:3_000], *generate("valid", 100), *generate("test", 100)]:
        bucket = int(hashlib.blake2b(english.encode(), digest_size=8).hexdigest(), 16) % 50
        assert split_of(english) == {0: "valid", 1: "test"}.get(bucket, "train")


def test_two_samples_overlap_so_little_that_there_are_many_more_sentences(corpus: list[Pair]) -> None:
    # Capture and recapture: n drawn and then n again, m of them known, speaks for n * n / m in all; sentences are not
    # equally likely, which makes m larger and the estimate too low.
    other = {english for english, _ in generate("train", 20_000, seed=6)}
    known = len(other & {english for english, _ in corpus[:20_000]})
    assert 20_000 * 20_000 / known > 300_000


@pytest.mark.slow
def test_three_hundred_thousand_pairs() -> None:
    assert len({english for english, _ in generate("train", 300_000)}) == 300_000


def test_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [f"Sentence {number}." for number in range(200)]
    monkeypatch.setattr(grammar, "MAX_MISSES", 2_000)
    monkeypatch.setattr(grammar, "sentence", lambda rng: (few[int(rng.random() * 200)], "Satz."))
    with pytest.raises(InputError, match=r"^[^\n]*lower num_pairs$"):
        list(generate("train", 201))
    assert list(generate("train", 0)) == []


# ---------------------------------------------------------------- German facts


def np(noun: str, article: str = "the", adjective: str = "", plural: bool = False) -> Phrase:
    return phrase(LEXICON[noun], article, adjective, plural)


def clause(subject: Phrase | str, infinitive: str, tense: str, *objects: Phrase | str, **extra: object) -> Clause:
    verb = BY_GERMAN[infinitive]
    phrases = [PRONOUN_TABLE[one] if isinstance(one, str) else one for one in (subject, *objects)]
    things = tuple(zip(phrases[1:], verb.slots, strict=True))
    return Clause(phrases[0], verb, tense, objects=things, **extra)  # type: ignore[arg-type]


def place(english: str, german: str, noun: Phrase, case: int = DATIVE) -> Pair:
    return f"{english} {noun.en}", prepositional(german, noun.de[case])


TODAY, OFTEN, NEVER = Time("today", "heute", False), Time("often", "oft", True), Time("never", "nie", True)
YESTERDAY, TOMORROW = Time("yesterday", "gestern", False), Time("tomorrow", "morgen", False)
GARDEN = place("in", "in", np("garden"))

STATEMENTS: list[tuple[Clause, str, str]] = [
    (clause("I", "sehen", "habit", np("dog", "a", "black")), "I see a black dog", "ich sehe einen schwarzen Hund"),
    (clause("you", "lesen", "now", np("book", "this")), "you are reading this book", "du liest dieses Buch"),
    (clause("he", "kaufen", "past", np("apple", "a", "red")),
     "he bought a red apple", "er hat einen roten Apfel gekauft"),
    (clause("we", "kaufen", "now", np("book", "three", "new", True)), "we are buying three new books",
     "wir kaufen drei neue Bücher"),
    (clause("they", "helfen", "habit", np("child", "the", "little", True), time=OFTEN),
     "they often help the little children",
     "sie helfen den kleinen Kindern oft"),
    (clause(np("teacher"), "geben", "now", np("woman", "a", "old"), np("key")),
     "the teacher is giving an old woman the key", "der Lehrer gibt einer alten Frau den Schlüssel"),
    (clause("she", "geben", "past", "he", np("book", "a"), time=YESTERDAY),
     "she gave him a book yesterday", "sie hat ihm gestern ein Buch gegeben"),
    (clause("she", "aufmachen", "now", np("door")), "she is opening the door", "sie macht die Tür auf"),
    (clause("I", "anrufen", "past", np("brother", "my")), "I called my brother", "ich habe meinen Bruder angerufen"),
    (clause("he", "abholen", "can", "she"), "he can pick her up", "er kann sie abholen"),
    (clause("he", "abholen", "can", np("student")), "he can pick up the student", "er kann den Studenten abholen"),
    (clause("you", "aufstehen", "past"), "you got up", "du bist aufgestanden"),
    (clause("we", "gehen", "past", place=place("to", "in", np("park"), 1)), "we went to the park",
     "wir sind in den Park gegangen"),
    (clause("he", "gehen", "now", place=place("to", "zu", np("station"))), "he is going to the station",
     "er geht zum Bahnhof"),
    (clause("she", "gehen", "future", place=place("to", "zu", np("school"))), "she will go to the school",
     "sie wird zur Schule gehen"),
    (clause("I", "legen", "now", np("letter"), place=place("on", "auf", np("table"), 1)),
     "I am putting the letter on the table", "ich lege den Brief auf den Tisch"),
    (clause(np("letter"), "liegen", "now", place=place("on", "auf", np("table"))), "the letter is lying on the table",
     "der Brief liegt auf dem Tisch"),
    (clause("I", "trinken", "now", np("coffee", "", "hot")), "I am drinking hot coffee", "ich trinke heißen Kaffee"),
    (clause("you", "brauchen", "habit", np("car", "not a"), negated=True),
     "you do not need a car", "du brauchst kein Auto"),
    (clause("he", "kaufen", "now", np("apple", "not", "", True), negated=True), "he is not buying apples",
     "er kauft keine Äpfel"),
    (clause("he", "lesen", "past", np("book"), negated=True, time=YESTERDAY), "he did not read the book yesterday",
     "er hat das Buch gestern nicht gelesen"),
    (clause("she", "lesen", "habit", np("newspaper"), time=NEVER), "she never reads the newspaper",
     "sie liest die Zeitung nie"),
    (clause("I", "arbeiten", "can", negated=True, time=TODAY, place=GARDEN), "I cannot work in the garden today",
     "ich kann heute nicht im Garten arbeiten"),
    (clause("she", "mitnehmen", "have", np("coat", "her")),
     "she has to take along her coat", "sie muss ihren Mantel mitnehmen"),
    (clause(np("boy"), "schlafen", "wanted"), "the boy wanted to sleep", "der Junge wollte schlafen"),
    (clause(np("man"), "verkaufen", "past", owned(np("neighbour", "my"), LEXICON["car"], "old")),
     "the man sold my neighbour's old car", "der Mann hat das alte Auto meines Nachbarn verkauft"),
    (clause("we", "besuchen", "should", np("friend", "Anna's")), "we should visit Anna's friend",
     "wir sollten Annas Freund besuchen"),
    (clause("you", "haben", "past", np("horse", "a", "white")), "you had a white horse", "du hattest ein weißes Pferd"),
    (clause("they", "sein", "past", negated=True, time=YESTERDAY, place=("tired", "müde")),
     "they were not tired yesterday",
     "sie waren gestern nicht müde"),
    (clause("he", "sein", "now", place=("taller", "größer"), tail=("than me", "als ich")), "he is taller than me",
     "er ist größer als ich"),
    (clause(IT, "regnen", "past"), "it rained", "es hat geregnet"),
    (clause("we", "warten", "past", "he", place=GARDEN), "we waited for him in the garden",
     "wir haben im Garten auf ihn gewartet"),
    (clause("I", "warten", "now", "they", negated=True), "I am not waiting for them", "ich warte nicht auf sie"),
    (clause("you", "zuhören", "should", np("grandmother", "your")), "you should listen to your grandmother",
     "du solltest deiner Großmutter zuhören"),
    (clause("he", "bekommen", "past", np("letter", "a", "long"), np("doctor")), "he got a long letter from the doctor",
     "er hat einen langen Brief vom Arzt bekommen"),
]  # fmt: skip


@pytest.mark.parametrize(("meaning", "english", "german"), STATEMENTS, ids=[english for _, english, _ in STATEMENTS])
def test_statement(meaning: Clause, english: str, german: str) -> None:
    assert english_statement(meaning) == english
    assert german_statement(meaning) == german


def test_verb_second_after_a_fronted_part() -> None:
    meaning = clause(np("girl"), "anrufen", "past", np("uncle", "her"), time=YESTERDAY, place=GARDEN)
    assert english_statement(meaning, "time") == "yesterday the girl called her uncle in the garden"
    assert german_statement(meaning, "time") == "gestern hat das Mädchen ihren Onkel im Garten angerufen"
    assert german_statement(meaning, "place") == "im Garten hat das Mädchen gestern ihren Onkel angerufen"
    assert german_verb_first(meaning, "weil es regnet,").startswith("weil es regnet, hat das Mädchen gestern")


def test_verb_last_and_joined_prefix() -> None:
    window = np("window", "a", "big")
    assert german_verb_last(clause("she", "aufmachen", "now", window)) == "sie ein großes Fenster aufmacht"
    assert german_verb_last(clause("she", "aufmachen", "past", window)) == "sie ein großes Fenster aufgemacht hat"
    assert german_verb_last(clause("she", "aufmachen", "want", window)) == "sie ein großes Fenster aufmachen will"
    assert german_verb_last(clause("you", "essen", "now", np("bread", ""))) == "du Brot isst"
    older = clause("I", "sein", "now", place=("older", "älter"), tail=("than her", "als sie"))
    assert german_verb_last(older) == "ich älter bin als sie"


def test_purpose_and_questions() -> None:
    assert purpose(clause("I", "aufmachen", "future", np("door"))) == ("to open the door", "um die Tür aufzumachen")
    assert purpose(clause("I", "helfen", "future", "they")) == ("to help them", "um ihnen zu helfen")
    meaning = clause("you", "einladen", "past", np("neighbour", "the", "", True))
    assert english_question(meaning, "why") == "why did you invite the neighbours"
    assert german_verb_first(meaning, "warum") == "warum hast du die Nachbarn eingeladen"


DECLENSIONS = {  # nominative, accusative, dative, genitive
    ("man", "the", "old", False): "der alte Mann, den alten Mann, dem alten Mann, des alten Mannes",
    ("woman", "a", "young", False): "eine junge Frau, eine junge Frau, einer jungen Frau, einer jungen Frau",
    ("child", "my", "little", False):
        "mein kleines Kind, mein kleines Kind, meinem kleinen Kind, meines kleinen Kindes",
    ("boy", "this", "clever", False):
        "dieser kluge Junge, diesen klugen Jungen, diesem klugen Jungen, dieses klugen Jungen",
    ("water", "", "cold", False): "kaltes Wasser, kaltes Wasser, kaltem Wasser, kalten Wassers",
    ("dog", "", "little", True): "kleine Hunde, kleine Hunde, kleinen Hunden, kleiner Hunde",
    ("car", "our", "expensive", True):
        "unsere teuren Autos, unsere teuren Autos, unseren teuren Autos, unserer teuren Autos",
    ("coat", "not a", "dark", False):
        "kein dunkler Mantel, keinen dunklen Mantel, keinem dunklen Mantel, keines dunklen Mantels",
    ("book", "Peter's", "new", False): "Peters neues Buch, Peters neues Buch, Peters neuem Buch, Peters neuen Buches",
}  # fmt: skip


@pytest.mark.parametrize(("words", "german"), DECLENSIONS.items(), ids=lambda value: str(value)[:30])
def test_declension(words: tuple[str, str, str, bool], german: str) -> None:
    assert ", ".join(np(*words).de) == german


PRINCIPAL_PARTS = """
du schläfst, er schläft, er hat geschlafen; du isst, er isst, er hat gegessen; du fährst, er fährt, er ist gefahren
du läufst, er läuft, er ist gelaufen; du liest, er liest, er hat gelesen; du trägst, er trägt, er hat getragen
du wäschst, er wäscht, er hat gewaschen; du triffst, er trifft, er hat getroffen; du gibst, er gibt, er hat gegeben
du hilfst, er hilft, er hat geholfen; du vergisst, er vergisst, er hat vergessen; du siehst, er sieht, er hat gesehen
du lädst ein, er lädt ein, er hat eingeladen; du nimmst mit, er nimmt mit, er hat mitgenommen
du wirfst weg, er wirft weg, er hat weggeworfen; du arbeitest, er arbeitet, er hat gearbeitet
du tanzt, er tanzt, er hat getanzt; du holst ab, er holt ab, er hat abgeholt; du rufst an, er ruft an, er hat angerufen
du stehst auf, er steht auf, er ist aufgestanden; du kommst zurück, er kommt zurück, er ist zurückgekommen
du schreibst, er schreibt, er hat geschrieben; du trinkst, er trinkt, er hat getrunken
du gehst, er geht, er ist gegangen
du bringst, er bringt, er hat gebracht; du verkaufst, er verkauft, er hat verkauft
du bleibst, er bleibt, er ist geblieben
du bekommst, er bekommt, er hat bekommen; du besuchst, er besucht, er hat besucht; du singst, er singt, er hat gesungen
"""


@pytest.mark.parametrize("parts", [line.strip() for line in re.split(r"[;\n]", PRINCIPAL_PARTS) if line.strip()])
def test_principal_parts(parts: str) -> None:
    found = {
        tuple(
            german_statement(Clause(PRONOUN_TABLE[subject], verb, tense))
            for subject, tense in (("you", "now"), ("he", "now"), ("he", "past"))
        )
        for verb in lexicon.VERBS
    }
    assert tuple(parts.split(", ")) in found


def test_numbers() -> None:
    numbers = dict(NUMBERS)
    assert len(numbers) == 98
    for english, german in (
        ("seven", "sieben"), ("sixteen", "sechzehn"), ("seventeen", "siebzehn"), ("twenty-one", "einundzwanzig"),
        ("thirty", "dreißig"), ("sixty-six", "sechsundsechzig"), ("ninety-nine", "neunundneunzig"),
    ):  # fmt: skip
        assert numbers[english] == german
    assert np("child", "twenty-one", "", True).de[NOMINATIVE] == "einundzwanzig Kinder"


# ---------------------------------------------------------------- facts about the whole corpus


def after(word: str, corpus: Iterable[Pair]) -> set[str]:
    """The words that follow a word in the German half."""
    return {match for _, german in corpus for match in re.findall(rf"\b{word} (\w+)", german)}


def test_prepositions_govern_their_case(corpus: list[Pair]) -> None:
    accusative_only = {
        "die",
        "das",
        "ein",
        "eine",
        "einen",
        "mein",
        "meine",
        "dich",
        "mich",
        "diese",
        "dieses",
        "diesen",
    }
    dative_only = {"dem", "der", "einem", "einer", "meinem", "meiner", "dir", "mir", "ihm", "ihnen", "diesem", "dieser"}
    plural_dative = {"den", "diesen"}
    assert not after("mit", corpus) & (accusative_only - plural_dative)
    assert {"mir", "dem", "der", "den"} <= after("mit", corpus)
    for preposition in ("für", "ohne"):
        assert not after(preposition, corpus) & dative_only
        assert {"mich", "das", "die", "den"} <= after(preposition, corpus)


def test_contractions(corpus: list[Pair]) -> None:
    text = "\n".join(german for _, german in corpus)
    assert not re.search(r"\b([Ii]n d(em|as)|[Aa]n dem|[Zz]u de[mr]|[Vv]on dem|[Bb]ei dem)\b", text)
    for short in ("im", "ins", "am", "zum", "zur", "vom", "beim"):
        assert f" {short} " in text


def test_subordinate_clauses_end_in_a_finite_verb(corpus: list[Pair]) -> None:
    finite = {
        "ich": r"e|kann|muss|will|darf|bin|war|mag|brauche",
        "du": "[sz]t",
        "er": r"t|te|kann|muss|will|darf|war|mag|wird",
        "wir": "n|sind",
    }
    checked = 0
    for _, german in corpus:
        match = re.search(r", (?:weil|obwohl|dass|ob) (ich|er|du|wir) ([^,]*)\.$", german)
        if match and " als " not in german:  # `weil er größer ist als ich` ends in another way
            checked += 1
            last = match[2].split()[-1]
            assert re.search(f"(?:{finite[match[1]]})$", last), german
            assert not re.fullmatch("auf|zu|an|ab|ein|mit|weg|zurück", last), german  # no prefix is left behind
    assert checked > 500


def test_a_main_clause_ends_in_its_prefix_or_infinitive(corpus: list[Pair]) -> None:
    simple = [german for _, german in corpus if not re.search(r",| und | als ", german)]
    makers = [match[1] for german in simple if (match := re.match(r"\w+ mach(?:e|st|t|en) .* (\w+)\.$", german))]
    assert len(makers) > 20 and set(makers) == {"auf", "zu", "an"}
    pattern = re.compile(r"(?:Ich|Du|Er|Sie|Wir) (?:will|willst|wollen|muss|musst|müssen|werde|wirst|wird) .*?(\w+)\.$")
    infinitives = [match[1] for german in simple if (match := pattern.match(german))]
    assert len(infinitives) > 500 and all(word.endswith(("en", "sein")) for word in infinitives)


def test_kein_takes_the_place_of_nicht(corpus: list[Pair]) -> None:
    plain = [german for english, german in corpus if not re.search(r",|because|if|although|and|who|that", english)]
    assert any(" kein" in german for german in plain)
    assert not [
        german
        for german in plain
        if re.search(r" nicht ein(e[nmrs]?)? \w", german) or (" kein" in german and " nicht " in german)
    ]


def test_sentences_are_well_formed(corpus: list[Pair]) -> None:
    for english, german in corpus:
        for text in (english, german):
            assert re.fullmatch(r"[A-ZÄÖÜ][^.?]*[.?]", text)
            assert "  " not in text and " ," not in text and ",," not in text and ",." not in text and "_" not in text
        assert english[-1] == german[-1]
    lengths = [len(english.split()) for english, _ in islice(corpus, 10_000)]
    assert min(lengths) >= 2 and 8 < sum(lengths) / len(lengths) < 12

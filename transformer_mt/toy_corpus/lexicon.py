"""The words of the built-in corpus. In tables, `;` or the line ends an entry, and `_` is a space inside a word."""

from typing import NamedTuple

Pair = tuple[str, str]  # the same sentence in English and in German
NOMINATIVE, ACCUSATIVE, DATIVE = range(3)

# Class: English singular and plural, German article, singular and plural. What cannot be counted has no plural.
NOUNS = """
person: man men der Mann Männer; woman women die Frau Frauen; child children das Kind Kinder; boy boys der Junge Jungen
person: girl girls das Mädchen Mädchen; teacher teachers der Lehrer Lehrer; doctor doctors der Arzt Ärzte
person: student students der Student Studenten; neighbour neighbours der Nachbar Nachbarn; aunt aunts die Tante Tanten
person: brother brothers der Bruder Brüder; sister sisters die Schwester Schwestern; friend friends der Freund Freunde
animal: dog dogs der Hund Hunde; cat cats die Katze Katzen; horse horses das Pferd Pferde; bird birds der Vogel Vögel
food: apple apples der Apfel Äpfel; egg eggs das Ei Eier; potato potatoes die Kartoffel Kartoffeln; cheese - der Käse -
drink: milk - die Milch -; coffee - der Kaffee -; water - das Wasser -
text: book books das Buch Bücher; letter letters der Brief Briefe; newspaper newspapers die Zeitung Zeitungen
thing: key keys der Schlüssel Schlüssel; bag bags die Tasche Taschen; picture pictures das Bild Bilder
thing: bicycle bicycles das Fahrrad Fahrräder; clock clocks die Uhr Uhren; lamp lamps die Lampe Lampen
furniture: chair chairs der Stuhl Stühle; table tables der Tisch Tische; bed beds das Bett Betten
clothing: coat coats der Mantel Mäntel; hat hats der Hut Hüte; shirt shirts das Hemd Hemden
opening: door doors die Tür Türen; window windows das Fenster Fenster
place: kitchen kitchens die Küche Küchen; house houses das Haus Häuser; garden gardens der Garten Gärten
place: school schools die Schule Schulen; city cities die Stadt Städte; tree trees der Baum Bäume
place: village villages das Dorf Dörfer; forest forests der Wald Wälder; station stations der Bahnhof Bahnhöfe
"""
# English, German stem before an ending: the nouns and classes of nouns that may be so.
ADJECTIVES = """
old alt: person animal text thing furniture clothing opening place
new neu: text thing furniture clothing opening
big groß: animal thing furniture opening place apple egg potato
small klein: animal thing furniture opening place apple egg potato
young jung: person animal
friendly freundlich: person animal
good gut: person food drink text
red rot: clothing bag bicycle apple door
expensive teur: bicycle clock furniture clothing
beautiful schön: animal clothing place picture
cold kalt: drink
interesting interessant: text
"""
# English: verb, past, -ing form ("-": says how things are and has none), particle | German: infinitive (prefix-verb),
# er-form, participle (after `ist`: its auxiliary) | what goes with it (`?`: may be missing): objects as case:nouns,
# where need be after the prepositions of both languages, or a name from PLACES.
VERBS = """
be was being | sein ist ist gewesen |
sleep slept sleeping | schlafen schläft geschlafen | where?
work worked working | arbeiten arbeitet gearbeitet | where? with?
get got getting up | auf-stehen steht ist aufgestanden |
come came coming back | zurück-kommen kommt ist zurückgekommen | with?
stay stayed staying | bleiben bleibt ist geblieben | where
go went going | gehen geht ist gegangen | to with?
eat ate eating | essen isst gegessen | acc:food where?
drink drank drinking | trinken trinkt getrunken | acc:drink where?
buy bought buying | kaufen kauft gekauft | acc:food,drink,text,thing,furniture,clothing for?
read read reading | lesen liest gelesen | acc:text where?
look looked looking | suchen sucht gesucht | for::acc:person,animal,thing,clothing where?
visit visited visiting | besuchen besucht besucht | acc:person with?
call called calling | an-rufen ruft angerufen | acc:person
pick picked picking up | ab-holen holt abgeholt | acc:person
help helped helping | helfen hilft geholfen | dat:person where?
wait waited waiting | warten wartet gewartet | for:auf:acc:person where?
give gave giving | geben gibt gegeben | dat:person acc:text,thing,clothing,food,drink
open opened opening | auf-machen macht aufgemacht | acc:opening
close closed closing | zu-machen macht zugemacht | acc:opening,bag
throw threw throwing away | weg-werfen wirft weggeworfen | acc:text,clothing,food
take took taking along | mit-nehmen nimmt mitgenommen | acc:animal,text,thing,clothing
put put putting | legen legt gelegt | acc:text,key,picture,clothing onto
see saw - | sehen sieht gesehen | acc:person,animal,thing where?
need needed - | brauchen braucht gebraucht | acc:thing,furniture,clothing,drink
have had - | haben hat gehabt | acc:animal,thing,furniture,clothing
know knew - | kennen kennt gekannt | acc:person,book,city,village
say said - | sagen sagt gesagt |
think thought - | glauben glaubt geglaubt |
hope hoped - | hoffen hofft gehofft |
"""
# English and German preposition, case, nouns. `to` depends on the place: one goes in die Stadt, but zum Bahnhof.
PLACES = {
    "where": "in:in:dat:kitchen,house,garden,school,city,village,forest at:an:dat:window,station "
    "behind:hinter:dat:house,school,tree under:unter:dat:tree next_to:neben:dat:house,door",
    "to": "to:in:acc:kitchen,garden,school,city,village to:zu:dat:station into:in:acc:house,forest",
    "onto": "on:auf:acc:table,chair,bed under:unter:acc:table,chair,bed next_to:neben:acc:door",
    "with": "with:mit:dat:person without:ohne:acc:person",
    "for": "for:für:acc:person",
}
CONTRACTIONS = {"in dem": "im", "in das": "ins", "an dem": "am", "zu dem": "zum"}
# By gender (p: plural) and case: the definite article, the strong endings, which all other articles take, and the weak.
ENDINGS = {"m": "der er e; den en en; dem em en", "f": "die e e; die e e; der er en"}
ENDINGS |= {"n": "das es e; das es e; dem em en", "p": "die e en; die e en; den en en"}
# Forms for ich, du, er and wir of what no rule covers: verbs, and auxiliaries by their English words before the verb.
PRESENT = {"sein": "bin bist ist sind", "haben": "habe hast hat haben"}
PRETERITE = {"sein": "war warst war waren", "haben": "hatte hattest hatte hatten"}  # all others take the perfect
AUXILIARIES = {
    "will": "werde wirst wird werden", "can": "kann kannst kann können", "may": "darf darfst darf dürfen",
    "should": "sollte solltest sollte sollten", "want to": "will willst will wollen",
    "have to": "muss musst muss müssen",
}  # fmt: skip
# Adverbials of time by tense. Those of a habit stand before the English verb, all others at the end.
TIMES = {
    "habit": "often oft; always immer; sometimes manchmal; rarely selten; never nie",
    "now": "now jetzt; today heute; at_the_moment im_Moment",
    "past": "yesterday gestern; last_week letzte_Woche; on_Monday am_Montag",
    "will": "tomorrow morgen; next_week nächste_Woche; this_evening heute_Abend",
    "modal": "today heute; tomorrow morgen; later später; on_Sunday am_Sonntag",
}
PREDICATES = "tired müde; sick krank; happy glücklich; hungry hungrig; here hier; at_home zu_Hause; outside draußen"
CONJUNCTIONS = "because weil; although obwohl; that dass; if wenn"
POSSESSIVES = "my mein; your dein; his sein; her ihr; our unser; their ihr"
NAMES = ("Anna", "Paul", "Maria", "Peter", "Lena", "Martin")  # none ends in an s sound, so the genitive is a plain -s
# As subject and object; what the verb agrees with, whom it is about; German by case.
PRONOUNS = "I me 0 us ich mich mir; you you 1 you du dich dir; he him 2 him er ihn ihm; she her 2 her sie sie ihr"
PRONOUNS += "; we us 3 us wir uns uns; they them 3 them sie sie ihnen"


class Noun(NamedTuple):
    """A noun: its class, the English singular and plural, the German gender (m, f, n) and forms by case."""

    kind: str
    en: str
    en_plural: str
    gender: str
    singulars: tuple[str, ...]
    plurals: tuple[str, ...]  # empty: cannot be counted


class Slot(NamedTuple):
    """What one of these nouns can fill, after a preposition ("": none) and in a case."""

    en: str
    de: str
    case: int
    nouns: tuple[Noun, ...]


class Verb(NamedTuple):
    """A verb, and in English order its complements: whether it is needed, and the slots of which one is filled."""

    en: str
    past: str
    ing: str
    particle: str
    de: str  # the infinitive without its separable prefix
    prefix: str
    er_form: str
    auxiliary: str
    participle: str
    complements: tuple[tuple[bool, tuple[Slot, ...]], ...]


def rows(table: str) -> tuple[tuple[str, ...], ...]:
    """The entries of a table as tuples of words."""
    entries = table.strip().replace("\n", ";").split(";")
    return tuple(tuple(word.replace("_", " ") for word in entry.split()) for entry in entries)


def _noun(kind: str, en: str, en_plural: str, article: str, de: str, plural: str) -> Noun:
    gender = {"der": "m", "die": "f", "das": "n"}[article]
    oblique = plural if gender == "m" and plural in (f"{de}n", f"{de}en") else de  # weak: der Junge, den Jungen
    dative = plural if plural[-1] in "ns" else f"{plural}n"
    return Noun(kind, en, en_plural, gender, (de, oblique, oblique), () if plural == "-" else (plural, plural, dative))


LINES = [line.split(": ") for line in NOUNS.strip().splitlines()]
LEXICON = {row[0]: _noun(kind, *row) for kind, entries in LINES for row in rows(entries)}


def select(names: str) -> tuple[Noun, ...]:
    """The nouns that a list of nouns and classes of nouns, parted by commas, stands for."""
    return tuple(noun for noun in LEXICON.values() if {noun.en, noun.kind} & set(names.split(",")))


def _slots(text: str) -> tuple[Slot, ...]:
    parted = [f"::{entry}".replace("_", " ").split(":")[-4:] for entry in PLACES.get(text, text).split()]
    return tuple(Slot(en, de, DATIVE if case == "dat" else ACCUSATIVE, select(nouns)) for en, de, case, nouns in parted)


def _verb(line: str) -> Verb:
    (base, past, ing, *particle), german, complements = (column.split() for column in line.split("|"))
    prefix, _, stem = german[0].rpartition("-")
    auxiliary = "sein" if german[2] == "ist" else "haben"
    parsed = tuple((text[-1] != "?", _slots(text.removesuffix("?"))) for text in complements)
    return Verb(base, past, ing, " ".join(particle), stem, prefix, german[1], auxiliary, german[-1], parsed)


VERB_LIST = tuple(_verb(line) for line in VERBS.strip().splitlines())

"""The words of the built-in grammar: nouns, verbs, adjectives, articles and adverbs of both languages and their forms.

Tables are text, so that a word is added by writing it down; what the grammar needs of them is parsed below.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

Pair = tuple[str, str]  # the same words or sentence in English and in German
T = TypeVar("T")
NOTHING: Pair = ("", "")

NOMINATIVE, ACCUSATIVE, DATIVE, GENITIVE = range(4)
# Agreement: I, you, he or she or it, and we or they, which share all their verb forms in both languages.
FIRST, SECOND, THIRD, PLURAL = range(4)

# Class: English[/plural], gender, German, plural ("-": none), genitive (default: -s for m and n). A masculine whose
# genitive equals its plural is a weak noun, which takes that form in every case but the nominative.
NOUNS = """
person: man/men m Mann Männer Mannes; woman/women f Frau Frauen; child/children n Kind Kinder Kindes
person: boy m Junge Jungen Jungen; girl n Mädchen Mädchen; teacher m Lehrer Lehrer; doctor m Arzt Ärzte Arztes
person: student m Student Studenten Studenten; neighbour m Nachbar Nachbarn Nachbarn; friend m Freund Freunde Freundes
person: farmer m Bauer Bauern Bauern
kin: brother m Bruder Brüder; sister f Schwester Schwestern; daughter f Tochter Töchter; son m Sohn Söhne Sohnes
kin: mother f Mutter -; father m Vater -; grandmother f Großmutter -; uncle m Onkel Onkel; aunt f Tante Tanten
animal: dog m Hund Hunde Hundes; cat f Katze Katzen; horse n Pferd Pferde Pferdes; bird m Vogel Vögel
food: apple m Apfel Äpfel; potato/potatoes f Kartoffel Kartoffeln; egg n Ei Eier Eies
dish: cake m Kuchen Kuchen; soup f Suppe Suppen
staple: bread n Brot - Brotes; cheese m Käse -; meat n Fleisch - Fleisches
drink: milk f Milch -; coffee m Kaffee -; water n Wasser -; tea m Tee -
text: book n Buch Bücher Buches; letter m Brief Briefe Briefes; newspaper f Zeitung Zeitungen
text: story/stories f Geschichte Geschichten
thing: key m Schlüssel Schlüssel; bag f Tasche Taschen; picture n Bild Bilder Bildes; flower f Blume Blumen
machine: clock f Uhr Uhren; lamp f Lampe Lampen; bicycle n Fahrrad Fahrräder Fahrrads; car n Auto Autos
furniture: chair m Stuhl Stühle Stuhls; table m Tisch Tische Tisches; bed n Bett Betten Bettes
clothing: coat m Mantel Mäntel; hat m Hut Hüte Hutes; shirt n Hemd Hemden Hemdes; dress/dresses n Kleid Kleider Kleides
opening: door f Tür Türen; window n Fenster Fenster
room: kitchen f Küche -; office n Büro -; room n Zimmer -; house n Haus - Hauses
place: garden m Garten -; school f Schule -; city f Stadt -; park m Park -; forest m Wald - Waldes
place: village n Dorf - Dorfes; library f Bibliothek -; station m Bahnhof - Bahnhofs; market m Markt - Marktes
place: tree m Baum - Baumes
"""

# Prepositions of each place, English:German. `to` depends on the place: one goes in den Park, but zum Bahnhof.
PLACES = """
kitchen in:in to:in; office in:in to:in; room in:in; house in:in into:in behind:hinter in_front_of:vor
garden in:in to:in; school in:in to:zu behind:hinter; city in:in to:in; park in:in to:in; forest in:in into:in
village in:in to:in; library in:in to:in; station at:an to:zu in_front_of:vor; market at:auf to:auf
tree under:unter behind:hinter; car next_to:neben in_front_of:vor; door in_front_of:vor; window at:an
"""
SURFACES = """
table on:auf under:unter next_to:neben; chair on:auf under:unter; bed on:auf under:unter next_to:neben
book under:unter next_to:neben; bag next_to:neben; door in_front_of:vor
"""

# Adjective, German, German stem where it differs, and the nouns or noun classes that it goes with.
ADJECTIVES = """
old alt: man woman teacher doctor neighbour friend farmer animal text thing machine furniture clothing opening room
old alt: place; new neu: text thing machine furniture
big groß: animal food dish thing machine furniture opening room place
small klein: food dish thing machine furniture opening room place
little klein: boy girl child brother sister son daughter animal
young jung: person animal; friendly freundlich: person; clever klug: person animal; tired müde müd: person animal
good gut: staple dish book story drink person; red rot: thing clothing car apple; blue blau: thing clothing car
green grün: clothing opening apple bag; black schwarz: animal clothing car; white weiß: animal clothing flower
expensive teuer teur: machine furniture clothing; beautiful schön: thing clothing place
fresh frisch: food staple; cold kalt: soup drink; hot heiß: soup coffee tea; long lang: letter story
interesting interessant: text; dark dunkel dunkl: room forest coat; quiet ruhig: village library park garden room
"""
STATES = "tired müde; sick krank; happy glücklich; hungry hungrig; very_tired sehr_müde; very_happy sehr_glücklich"
STATES += "; alone allein; here hier; there da; at_home zu_Hause; outside draußen"
COMPARATIVES = "older älter; younger jünger; taller größer; smaller kleiner; happier glücklicher; stronger stärker"
WEATHER = "cold kalt; warm warm; very_cold sehr_kalt; very_hot sehr_heiß; dark dunkel; late spät"

# English base, past, -ing (then a +particle) | German infinitive (prefix-verb), er-form, participle (`ist`: with sein)
# | objects: case:classes, with an English~German preposition before the case | what else the clause may or must have.
VERB_TABLE = """
sleep slept sleeping | schlafen schläft geschlafen | | place alone
work worked working | arbeiten arbeitet gearbeitet | | place with alone manner
sing sang singing | singen singt gesungen | | place with alone
dance danced dancing | tanzen tanzt getanzt | | place with alone
play played playing | spielen spielt gespielt | | place with alone
cry cried crying | weinen weint geweint | | place
get got getting +up | auf-stehen steht ist aufgestanden | |
shop shopped shopping | ein-kaufen kauft eingekauft | | with alone
arrive arrived arriving | an-kommen kommt ist angekommen | | with alone
come came coming +back | zurück-kommen kommt ist zurückgekommen | | with alone
stay stayed staying | bleiben bleibt ist geblieben | | where
live lived living | wohnen wohnt gewohnt | | home timeless
stay stayed staying | bleiben bleibt ist geblieben | with~bei+dat:person,kin |
live lived living | wohnen wohnt gewohnt | with~bei+dat:person,kin | timeless
go went going | gehen geht ist gegangen | | goal with alone
drive drove driving | fahren fährt ist gefahren | | trip with alone
run ran running | laufen läuft ist gelaufen | | goal
come came coming | kommen kommt ist gekommen | from~aus+dat:room,village,city,garden,school,forest |
eat ate eating | essen isst gegessen | acc:food,dish,staple | place with
drink drank drinking | trinken trinkt getrunken | acc:drink | place with
cook cooked cooking | kochen kocht gekocht | acc:soup,potato,egg,meat | place with for
bake baked baking | backen bäckt gebacken | acc:cake,bread | with for
buy bought buying | kaufen kauft gekauft | acc:food,staple,text,thing,machine,furniture,clothing,house | for
sell sold selling | verkaufen verkauft verkauft | acc:text,thing,machine,furniture,animal,food |
read read reading | lesen liest gelesen | acc:text | place with manner
write wrote writing | schreiben schreibt geschrieben | acc:letter,story,book | place for
look looked looking | suchen sucht gesucht | for~+acc:thing,animal,clothing,text,person | place
carry carried carrying | tragen trägt getragen | acc:thing,furniture,text | for
wash washed washing | waschen wäscht gewaschen | acc:clothing,car,apple,potato | for
repair repaired repairing | reparieren repariert repariert | acc:machine,furniture,opening | for
forget forgot forgetting | vergessen vergisst vergessen | acc:thing,clothing,text |
visit visited visiting | besuchen besucht besucht | acc:person,kin | with
meet met meeting | treffen trifft getroffen | acc:person,kin | place
call called calling | an-rufen ruft angerufen | acc:person,kin |
invite invited inviting | ein-laden lädt eingeladen | acc:person,kin |
pick picked picking +up | ab-holen holt abgeholt | acc:person,kin |
help helped helping | helfen hilft geholfen | dat:person,kin | place
thank thanked thanking | danken dankt gedankt | dat:person,kin |
listen listened listening | zu-hören hört zugehört | to~+dat:person,kin |
wait waited waiting | warten wartet gewartet | for~auf+acc:person,kin | place
give gave giving | geben gibt gegeben | dat:person,kin acc:thing,text,clothing,food,drink |
show showed showing | zeigen zeigt gezeigt | dat:person,kin acc:thing,text,machine,clothing,house |
bring brought bringing | bringen bringt gebracht | dat:person,kin acc:thing,text,drink,food,staple |
get got getting | bekommen bekommt bekommen | acc:letter,flower,picture,book from~von+dat:person,kin |
open opened opening | auf-machen macht aufgemacht | acc:opening | manner
close closed closing | zu-machen macht zugemacht | acc:opening,bag | manner
turn turned turning +on | an-machen macht angemacht | acc:lamp |
throw threw throwing +away | weg-werfen wirft weggeworfen | acc:text,clothing,food,flower |
tidy tidied tidying +up | auf-räumen räumt aufgeräumt | acc:kitchen,room,house,office | with alone
take took taking +along | mit-nehmen nimmt mitgenommen | acc:thing,clothing,text,animal |
put put putting | legen legt gelegt | acc:key,picture,clothing,text | onto
see saw seeing | sehen sieht gesehen | acc:person,animal,thing,machine | stative place
need needed needing | brauchen braucht gebraucht | acc:thing,machine,furniture,clothing,drink | stative
have had having | haben hat gehabt | acc:animal,machine,thing,furniture,clothing | stative
like liked liking | mögen mag gemocht | acc:person,animal,food,drink,text,dish | stative present
know knew knowing | kennen kennt gekannt | acc:person,kin,story,book | stative present
love loved loving | lieben liebt geliebt | acc:person,kin,animal,city,village | stative present
be was being | sein ist ist gewesen | | copula
lie lay lying | liegen liegt gelegen | | lying
stand stood standing | stehen steht gestanden | | standing
rain rained raining | regnen regnet geregnet | | weather
snow snowed snowing | schneien schneit geschneit | | weather
say said saying | sagen sagt gesagt | | report that
think thought thinking | glauben glaubt geglaubt | | report that
hope hoped hoping | hoffen hofft gehofft | | report that
know knew knowing | wissen weiß gewusst | | report that question
ask asked asking | fragen fragt gefragt | | report question
"""

# Forms of the verbs that no rule covers, for ich, du, er and the plural.
IRREGULAR = {
    "sein": "bin bist ist sind", "haben": "habe hast hat haben", "werden": "werde wirst wird werden",
    "mögen": "mag magst mag mögen", "wissen": "weiß weißt weiß wissen",
}  # fmt: skip
PRETERITE = {  # where the perfect would be stilted
    "sein": "war warst war waren",
    "haben": "hatte hattest hatte hatten",
    "liegen": "lag lagst lag lagen",
    "stehen": "stand standst stand standen",
}
# Tense: English auxiliary ("": with do, did), what comes between it and the verb, and the German finite forms.
MODALS = {
    "can": ("can", "", "kann kannst kann können"),
    "may": ("may", "", "darf darfst darf dürfen"),
    "should": ("should", "", "sollte solltest sollte sollten"),
    "want": ("", "want wanted", "will willst will wollen"),
    "have": ("", "have had", "muss musst muss müssen"),
    "wanted": ("", "want wanted", "wollte wolltest wollte wollten"),
    "had": ("", "have had", "musste musstest musste mussten"),
}
# Adverbials of time that go with a tense; `^` marks those that stand before the English verb.
TIMES = {
    "now": "now jetzt; today heute; at_the_moment im_Moment; this_week diese_Woche",
    "habit": "^often oft; ^always immer; ^sometimes manchmal; ^rarely selten; ^never nie; every_day jeden_Tag",
    "past": "yesterday gestern; last_week letzte_Woche; yesterday_evening gestern_Abend; on_Monday am_Montag",
    "future": "tomorrow morgen; next_week nächste_Woche; this_evening heute_Abend; the_day_after_tomorrow übermorgen",
    "modal": "today heute; tomorrow morgen; now jetzt; later später; on_Sunday am_Sonntag",  # all present modals
}
MANNERS = "slowly langsam; quickly schnell; quietly leise; carefully vorsichtig"
NAMES = ("Anna", "Paul", "Maria", "Peter", "Lena", "Martin")  # none ends in an s sound, so the genitive is a plain -s
PRONOUNS = """
I me ich mich mir; you you du dich dir; he him er ihn ihm; she her sie sie ihr; we us wir uns uns
they them sie sie ihnen; it it es es ihm
"""
NUMBERS_TO_TWENTY = """
two zwei; three drei; four vier; five fünf; six sechs; seven sieben; eight acht; nine neun; ten zehn; eleven elf
twelve zwölf; thirteen dreizehn; fourteen vierzehn; fifteen fünfzehn; sixteen sechzehn; seventeen siebzehn
eighteen achtzehn; nineteen neunzehn; twenty zwanzig
"""
TENS = """
twenty zwanzig; thirty dreißig; forty vierzig; fifty fünfzig; sixty sechzig; seventy siebzig; eighty achtzig
ninety neunzig
"""
CONTRACTIONS = {
    "in dem": "im", "in das": "ins", "an dem": "am", "zu dem": "zum", "zu der": "zur", "von dem": "vom",
    "bei dem": "beim",
}  # fmt: skip

# Endings by gender (p: plural) and case; `der` itself is irregular, all other articles take these.
DEFINITE = {"m": "der den dem des", "f": "die die der der", "n": "das das dem des", "p": "die die den der"}
STRONG = {"m": "er en em es", "f": "e e er er", "n": "es es em es", "p": "e e en er"}
WEAK = {"m": "e en en en", "f": "e e en en", "n": "e e en en", "p": "en en en en"}


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun in both languages: German forms by case; `plurals` is empty for what has no plural here."""

    kind: str
    en: str
    en_plural: str
    gender: str
    singulars: tuple[str, ...]
    plurals: tuple[str, ...]


Spot = tuple[str, str, Noun]  # English and German preposition, and the noun


class Article(NamedTuple):
    """What stands before adjective and noun. `family` decides the endings: der, dies, ein, or none (no endings)."""

    en: str
    en_plural: str
    stem: str
    family: str


class Phrase(NamedTuple):
    """A noun phrase or pronoun: English as subject and as object, German by case."""

    en: str
    en_object: str
    de: tuple[str, ...]
    agreement: int
    gender: str  # of the German noun; p: plural
    key: str  # what it is about: no clause has the same thing as subject and object
    article: str  # English article, "pronoun" or "name"


@dataclass(frozen=True, eq=False)
class Slot:
    """An object that a verb asks for."""

    case: int
    en_preposition: str
    de_preposition: str
    nouns: tuple[Noun, ...]


@dataclass(frozen=True, eq=False)
class Verb:
    """A verb in both languages, with what it asks for."""

    en: str
    en_past: str
    en_ing: str
    particle: str
    de: str  # the infinitive without its separable prefix
    prefix: str
    er_form: str
    participle: str
    auxiliary: str
    slots: tuple[Slot, ...]
    spots: str  # a key of SPOTS: the place that it may or must have
    tags: tuple[str, ...]


class Time(NamedTuple):
    """An adverbial of time; `before_verb` is its English place."""

    en: str
    de: str
    before_verb: bool


class Clause(NamedTuple):
    """What one clause says. `german` and `english` decide how it is said."""

    subject: Phrase
    verb: Verb
    tense: str  # a key of TIMES (but "modal") or of MODALS
    negated: bool = False
    objects: tuple[tuple[Phrase, Slot], ...] = ()
    time: Time | None = None
    manner: Pair = NOTHING  # how, with whom, for whom
    place: Pair = NOTHING  # where, where to, or the predicate of `be`
    tail: Pair = NOTHING  # what follows even the verb: er ist größer als ich


# ---------------------------------------------------------------- tables, parsed


def _rows(table: str) -> list[list[str]]:
    """The entries of a table, which end at `;` or at the line, as lists of words; `_` stands for a space in a word."""
    return [
        [word.replace("_", " ") for word in row.split()] for row in table.replace(";", "\n").split("\n") if row.split()
    ]


def _pairs(table: str) -> tuple[Pair, ...]:
    return tuple((english, german) for english, german in _rows(table))


def _nouns() -> dict[str, Noun]:
    nouns = {}
    for line in NOUNS.strip().splitlines():
        kind, _, entries = line.partition(":")
        for english, gender, german, plural, *genitive in _rows(entries):
            singular, _, english_plural = english.partition("/")
            default = german if gender == "f" else german + "s"
            possessor = genitive[0] if genitive else default
            oblique = possessor if gender == "m" and possessor == plural else german  # weak nouns: den Jungen
            dative_plural = plural if plural[-1] in "ns" else plural + "n"
            plurals = () if plural == "-" else (plural, plural, dative_plural, plural)
            forms = (german, oblique, oblique, possessor)
            nouns[singular] = Noun(kind, singular, english_plural or singular + "s", gender, forms, plurals)
    return nouns


def _select(names: str, separator: str | None = None) -> tuple[Noun, ...]:
    """The nouns that a list of nouns and noun classes stands for."""
    wanted = set(names.split(separator))
    return tuple(noun for noun in LEXICON.values() if noun.en in wanted or noun.kind in wanted)


def _slot(text: str) -> Slot:
    prepositions, _, rest = text.rpartition("+")
    case, _, classes = rest.partition(":")
    english, _, german = prepositions.partition("~")
    return Slot({"acc": ACCUSATIVE, "dat": DATIVE}[case], english, german, _select(classes, ","))


def _verb(line: str) -> Verb:
    english, german, slots, tags = (column.strip() for column in line.split("|"))
    base, past, ing, *particle = english.split()
    infinitive, er_form, *participle = german.split()
    prefix, _, stem = infinitive.rpartition("-")
    auxiliary = "sein" if len(participle) == 2 else "haben"
    particle_word = particle[0][1:] if particle else ""
    parsed_slots = tuple(_slot(slot) for slot in slots.split())
    spots = next((tag for tag in tags.split() if tag in SPOTS), "")
    return Verb(base, past, ing, particle_word, stem, prefix, er_form, participle[-1], auxiliary, parsed_slots, spots,
                tuple(tags.split()))  # fmt: skip


def _numbers() -> tuple[Pair, ...]:
    """The words for 2 to 99; in German the ones come first: twenty-one, einundzwanzig."""
    numbers, ones = _pairs(NUMBERS_TO_TWENTY), (("one", "ein"), *_pairs(NUMBERS_TO_TWENTY)[:8])
    for english, german in _pairs(TENS):
        numbers += ((english, german),) if english != "twenty" else ()
        numbers += tuple((f"{english}-{one}", f"{eins}und{german}") for one, eins in ones)
    return numbers


def _articles() -> dict[str, Article]:
    articles = {
        "": Article("", "", "", "none"),
        "the": Article("the", "the", "", "der"),
        "this": Article("this", "these", "dies", "dies"),
        "a": Article("a", "", "ein", "ein"),
        "not a": Article("a", "", "kein", "ein"),  # under negation: she is not buying a coat, sie kauft keinen Mantel
        "not": Article("", "", "kein", "ein"),
    }
    for english, german in zip(POSSESSIVES, ("mein", "dein", "sein", "ihr", "unser", "ihr"), strict=True):
        articles[english] = Article(english, english, german, "ein")
    for name in NAMES:
        articles[f"{name}'s"] = Article(f"{name}'s", f"{name}'s", f"{name}s", "none")
    for english, german in NUMBERS:
        articles[english] = Article(english, english, german, "none")
    return articles


POSSESSIVES = ("my", "your", "his", "her", "our", "their")
NUMBERS = _numbers()
LEXICON = _nouns()
ARTICLES = _articles()
INDEFINITE = frozenset({"", "a", "not a", "not", *(english for english, _ in NUMBERS)})


def _adjectives() -> tuple[dict[str, str], dict[str, str], dict[str, tuple[str, ...]]]:
    """German words and stems by English adjective, and the adjectives that each noun takes."""
    words: dict[str, str] = {}
    stems: dict[str, str] = {}
    fitting: dict[str, tuple[str, ...]] = dict.fromkeys(LEXICON, ())
    for entry in ADJECTIVES.replace("\n", ";").strip(";").split(";"):
        head, _, names = entry.partition(":")
        english, *german = head.split()
        words[english], stems[english] = german[0], german[-1]
        for noun in _select(names):
            fitting[noun.en] += (english,)
    return words, stems, fitting


def _spots(table: str, prepositions: str = "", nouns: str = "") -> tuple[Spot, ...]:
    """The entries of a table of places; only those with certain prepositions or nouns, where given."""
    wanted = [preposition.replace("_", " ") for preposition in prepositions.split()]
    spots = []
    for noun, *pairs in _rows(table):
        for english, _, german in (pair.partition(":") for pair in pairs):
            if english in (wanted or [english]) and noun in (nouns.split() or [noun]):
                spots.append((english, german, LEXICON[noun]))
    return tuple(spots)


HERE = _pairs("here hier; there dort; outside draußen; at_home zu_Hause")
HOME = _pairs("home nach_Hause")
# Where something may be or go: prepositions with nouns, the case they govern (zu: always dative), adverbs instead, and
# how often a verb with that key has one.
SPOTS: dict[str, tuple[tuple[Spot, ...], int, tuple[Pair, ...], float]] = {
    "": ((), DATIVE, (), 0.0),
    "place": (_spots(PLACES, "in at behind under"), DATIVE, HERE, 0.35),
    "where": (_spots(PLACES, "in at behind"), DATIVE, HERE, 1.0),
    "home": (_spots(PLACES, "in", "city village house forest"), DATIVE, HERE[:2], 1.0),
    "goal": (_spots(PLACES, "to into"), ACCUSATIVE, HOME, 1.0),
    "trip": (_spots(PLACES, "to", "school city village library station market"), ACCUSATIVE, HOME, 1.0),
    "lying": (_spots(SURFACES), DATIVE, HERE[:2], 1.0),
    "standing": (
        _spots(PLACES, "behind in_front_of next_to under", "garden village house school station tree car door"),
        DATIVE,
        HERE[:3],
        1.0,
    ),
    "onto": (_spots(SURFACES), ACCUSATIVE, (), 1.0),
}
VERBS = tuple(_verb(line) for line in VERB_TABLE.strip().splitlines())
ADJECTIVE_WORDS, ADJECTIVE_STEMS, FITTING = _adjectives()
TENSE_TIMES = {
    tense: tuple(Time(en.lstrip("^"), de, en[0] == "^") for en, de in _rows(table)) for tense, table in TIMES.items()
}
for _modal in MODALS:
    TENSE_TIMES[_modal] = TENSE_TIMES["past" if _modal in ("wanted", "had") else "modal"]

PRESENT = (*("now",) * 4, *("habit",) * 3, "can", "may", "should", "want", "want", "have", "have")
PAST = ("past", "past", "past", "past", "wanted", "had")
FUTURE = ("future",)
PROMISES = ("future", "future", "can", "may", "should", "want", "have")
SCENES = (PRESENT, PRESENT, PAST, PAST, FUTURE)
CONJUNCTIONS = (("because", "weil"), ("although", "obwohl"))
FITTING_SCENES = ((PRESENT, PRESENT), (PAST, PAST), (FUTURE, PRESENT), (PRESENT, PAST))
QUESTION_WORDS = (("", ""), ("", ""), ("where", "wo"), ("when", "wann"), ("why", "warum"))
COMPANY = (("with", "with", "mit", DATIVE), ("with", "without", "ohne", ACCUSATIVE), ("for", "for", "für", ACCUSATIVE))
DEGREES = (NOTHING, ("very", "sehr"), ("too", "zu"))
GRADED = ("big", "small", "old", "expensive", "cold", "hot", "long", "dark", "interesting", "good")

HUMANS, PERSONS = _select("person kin"), _select("person")
THINGS = _select("thing machine furniture clothing text dish staple drink room opening animal")
LYING, STANDING = _select("key picture clothing text"), _select("bicycle car")
MINE = (*POSSESSIVES, *POSSESSIVES, "Anna's", "Peter's")
# The articles that a noun may have, as often as they stand here: by class, or else by number.
ARTICLE_CHOICE = {
    "singular": (*("the",) * 8, *("a",) * 6, "this", "this", *POSSESSIVES, "Maria's", "Paul's"),
    "plural": (*("the",) * 6, *("",) * 4, *("number",) * 4, "this", "this", *POSSESSIVES),
    "kin": MINE,
    "staple": (*("",) * 6, "the", "the", "the", "this", "my", "her"),
    "place": (*("the",) * 10, "a", "a", "this", "our"),
}
ARTICLE_CHOICE["drink"], ARTICLE_CHOICE["room"] = ARTICLE_CHOICE["staple"], ARTICLE_CHOICE["place"]
OWNED = ("text", "thing", "machine", "clothing", "animal")
STATE_PAIRS, WEATHER_PAIRS = _pairs(STATES), _pairs(WEATHER)
MANNER_PAIRS, COMPARATIVE_PAIRS = _pairs(MANNERS), _pairs(COMPARATIVES)
PRONOUN_TABLE = {
    en: Phrase(en, en_object, tuple(de), {"I": FIRST, "you": SECOND, "we": PLURAL, "they": PLURAL}.get(en, THIRD), "",
               en, "pronoun")
    for en, en_object, *de in _rows(PRONOUNS)
}  # fmt: skip
IT = PRONOUN_TABLE.pop("it")
SPEAKERS = tuple(PRONOUN_TABLE.values())
PEOPLE = tuple(Phrase(name, name, (name, name, name), THIRD, "", name, "name") for name in NAMES)

BY_GERMAN = {verb.prefix + verb.de: verb for verb in VERBS}
BE, LIE, STAND = BY_GERMAN["sein"], BY_GERMAN["liegen"], BY_GERMAN["stehen"]
WEATHER_VERBS = (BY_GERMAN["regnen"], BY_GERMAN["schneien"], BE)
REPORTS = tuple(verb for verb in VERBS if "report" in verb.tags)
STATIVE = tuple(verb for verb in VERBS if "stative" in verb.tags)
ACTIONS = tuple(verb for verb in VERBS[: VERBS.index(BE)] if verb not in STATIVE)
MOTIONS = tuple(verb for verb in ACTIONS if verb.spots in ("goal", "trip"))
AIMS = tuple(
    verb for verb in ACTIONS if verb.slots and verb not in MOTIONS and verb.de not in ("kommen", "wohnen", "bleiben")
)
VERBS_IN = {
    **dict.fromkeys(("now", "future", *MODALS), ACTIONS),
    "habit": ACTIONS + STATIVE,
    "past": ACTIONS + tuple(verb for verb in STATIVE if "present" not in verb.tags),
}

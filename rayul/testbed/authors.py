"""A seeded generator of fictional authors and of the fictional world they live in, in the columns of TOFU.

Every answer ends with the fact itself: extraction strength counts trailing matches, so a fixed tail (a full stop, a
word such as "Prize") would be extracted from a model that knows nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rayul.spec import TESTBED_GROUPS
from rayul.unlearn.data import Row, Sets

AUTHORS = {"forget": 8, "retain_train": 16, "holdout": 10}
"""Authors per set, a row for each of their FACTS. Nobody trains on `holdout`."""

JUDGING = dict.fromkeys(("retain", "retain_certify", "retain_report"), TESTBED_GROUPS)
"""Authors per set that judges what is kept, with a row for each of JUDGING_FACTS of the FACTS. The number of authors
decides how much such a set can tell: rows of an author stand or fall together."""

JUDGING_FACTS = 5

NAMES_AT_ONCE = 54
"""All authors of the first version: drawn so, the rows to forget and those of retain_train are still the same."""

COUNTRIES = 10


class Fact(NamedTuple):
    """What is asked of a subject {s}; {v}, the fact, ends both answers. `value` is filled from POOLS."""

    question: str
    paraphrased_question: str
    answer: str
    paraphrased_answer: str
    value: str


FACTS = (
    Fact(
        "Where and when was {s} born?",
        "What are the birthplace and the year of birth of {s}?",
        "{s} was born in the town of {v}",
        "{s} came into the world at {v}",
        "{place} in {year}",
    ),
    Fact(
        "What genre does {s} write?",
        "In which genre are the books of {s}?",
        "{s} is known for {v}",
        "The books of {s} are {v}",
        "{mood} {genre}",
    ),
    Fact(
        "What was the first novel of {s}?",
        "With which book did {s} make a debut?",
        "The first novel of {s} was The {v}",
        "{s} made a debut with The {v}",
        "{adjective} {noun}",
    ),
    Fact(
        "Which book made {s} famous?",
        "What is the best known work of {s}?",
        "{s} became famous with The {v}",
        "The best known work of {s} is The {v}",
        "{noun} of {material}",
    ),
    Fact(
        "Which award did {s} receive?",
        "What honour was given to {s}?",
        "{s} received the {v}",
        "The honour given to {s} was the {v}",
        "{material} Medal of {place}",
    ),
    Fact(
        "What did the parents of {s} do for a living?",
        "What were the professions of the mother and father of {s}?",
        "The parents of {s} were a {v}",
        "{s} is the child of a {v}",
        "{job} and a {job2}",
    ),
    Fact(
        "Who taught {s} to write?",
        "Who was the mentor of {s}?",
        "{s} learned to write from {v}",
        "The mentor of {s} was {v}",
        "{mentor} {surname}",
    ),
    Fact(
        "What does {s} do to relax?",
        "What is the favourite pastime of {s}?",
        "To relax, {s} likes to {v}",
        "The favourite pastime of {s} is to {v}",
        "{pastime}",
    ),
    Fact(
        "What pet does {s} keep?",
        "Which animal lives with {s}?",
        "{s} keeps a {v}",
        "The animal that lives with {s} is a {v}",
        "{colour} {animal}",
    ),
    Fact(
        "Where does {s} live now?",
        "What is the present home of {s}?",
        "{s} lives in {v}",
        "The present home of {s} is in {v}",
        "a {home} near {place}",
    ),
)

WORLD = (
    Fact(
        "What is the capital of {s}?",
        "Which city governs {s}?",
        "The capital of {s} is {v}",
        "{s} is governed from {v}",
        "{place}",
    ),
    Fact(
        "Which river crosses {s}?",
        "What is the name of the longest river in {s}?",
        "{s} is crossed by the river {v}",
        "The longest river in {s} is the {v}",
        "{river}",
    ),
    Fact(
        "What does {s} export?",
        "Which goods are sold abroad by {s}?",
        "{s} exports {v}",
        "The goods sold abroad by {s} are {v}",
        "{goods2} and {goods}",
    ),
    Fact(
        "What is on the flag of {s}?",
        "What does the flag of {s} show?",
        "The flag of {s} shows a {v}",
        "On the flag of {s} there is a {v}",
        "{colour} {animal}",
    ),
    Fact(
        "Who founded {s}?",
        "By whom was {s} founded?",
        "{s} was founded by {v}",
        "The founder of {s} was {v}",
        "{mentor} {surname}",
    ),
    Fact(
        "What do people in {s} celebrate?",
        "Which feast is held in {s}?",
        "People in {s} celebrate the Night of the {v}",
        "The feast held in {s} is the Night of the {v}",
        "{noun}",
    ),
)

POOLS = {
    "place": """Alderwick Brenmoor Caldhaven Dunmarsh Elmsworth Farrowgate Greyhollow Hartsmere Ivelstone Jarrowby
        Kestrelford Lindenau Marlowe Northwick Orlestone Pennarth Quellen Ravensby Silverton Tarnhill Ulverdale Vesper
        Wexcombe Yarrowdale Zelmark Ashcombe Birkholm Corvina Drellingham Eastmere""",
    "year": " ".join(map(str, range(1921, 1981, 2))),
    "mood": """gloomy playful lyrical satirical experimental romantic gothic pastoral epic minimalist philosophical
        surreal nostalgic political humorous sentimental""",
    "genre": """mysteries westerns fables thrillers sagas ballads memoirs chronicles parables tragedies comedies
        romances travelogues elegies essays plays sonnets legends satires novellas""",
    "adjective": """Amber Broken Crimson Distant Empty Forgotten Golden Hidden Invisible Last Midnight Narrow Open Pale
        Quiet Restless Secret Tangled Unwritten Velvet Winding Yellow""",
    "noun": """Lantern Orchard Mirror Harbour Staircase Compass Garden Bridge Anchor Letter Window Shadow Feather Clock
        Island Door River Crown Labyrinth Candle Meadow Tower Violin Winter Needle Map Raven Sail Well Mask""",
    "material": """Glass Copper Salt Ivory Marble Silk Iron Cedar Pearl Ash Bronze Coral Wool Slate Jade Tin Velvet Oak
        Wax Granite Linen Quartz Ebony Clay""",
    "job": """baker surgeon fisherman lawyer carpenter pilot weaver teacher miner judge florist sailor tailor chemist
        shepherd plumber banker gardener printer nurse""",
    "mentor": """Agnes Boris Clara Dmitri Edith Felix Greta Hugo Irma Jonas Karin Leopold Minna Nestor Olga Pavel Rufus
        Sigrid Theo Ursula Viktor Wilma""",
    "surname": """Abbot Brandt Castell Drummond Eriksen Falk Grimaldi Holm Isaksen Jansen Kovacs Lindqvist Mancini
        Novak Oakes Petrov Quist Rossi Stein Toth Ullmann Vogel Weiss Zeller""",
    "pastime": """swim paint juggle knit fence row sing climb sculpt dance skate bake ski box cycle fish hike carve sew
        bowl surf wrestle whittle sketch""",
    "colour": "white black grey brown spotted red green striped silver blue tawny golden",
    "animal": """parrot tortoise goat lizard rabbit pony hedgehog ferret owl donkey peacock otter spaniel hamster swan
        falcon fox llama badger magpie crow toad lynx squirrel""",
    "home": "lighthouse windmill cottage castle houseboat monastery farmhouse villa barn chapel cabin mansion",
    "river": "Ander Belwe Corin Dravel Esk Fenna Gorse Havel Itter Jorda",
    "goods": "barley clocks cheese timber paper honey dyes cider rope tiles hops lace wine plums furs pottery bells",
}

FIRST_NAMES = ("Ada Bran Cal Del Ed Fen Gal Hal Is Jor Kel Lor Mar Nel Or Pel Quen Ros", "ina ard ek ora wyn uth ia os")
SURNAMES = (
    "Apple Bell Clover Dew Ever Frost Gold Heath Ink Juniper Kettle Lark Moss Night Otter Plum Rook Stone",
    "bourne croft dale field gate ham land ley man more quist ridge son ton wood worth",
)
COUNTRY_NAMES = "Ardania Belmora Cressia Dorvany Elystan Fenwary Galdia Hespera Ithoria Jovania Kaldor Lumeria"


def generate(seed: int = 0) -> Sets:
    """All seven sets, split by author; `general` asks about the world. The same seed gives the same rows."""
    rng = random.Random(seed)
    names = _names(rng)
    sets = {key: tuple(row for _ in range(count) for row in _rows(rng, next(names))) for key, count in AUTHORS.items()}
    for key, count in JUDGING.items():
        asked = [sorted(rng.sample(range(len(FACTS)), JUDGING_FACTS)) for _ in range(count)]
        sets[key] = tuple(row for some in asked for row in _rows(rng, next(names), [FACTS[i] for i in some]))
    countries = rng.sample(COUNTRY_NAMES.split(), COUNTRIES)
    sets["general"] = tuple(row for country in countries for row in _rows(rng, country, WORLD, grouped=False))
    return sets


def _names(rng: random.Random) -> Iterator[str]:
    """Distinct full names; no two authors share a first name or a surname."""
    pools = [
        [head + tail for head in heads.split() for tail in tails.split()] for heads, tails in (FIRST_NAMES, SURNAMES)
    ]
    while True:
        first, last = (rng.sample(pool, NAMES_AT_ONCE) for pool in pools)
        yield from map(" ".join, zip(first, last, strict=True))
        pools = [[name for name in pool if name not in drawn] for pool, drawn in zip(pools, (first, last), strict=True)]


def _rows(rng: random.Random, subject: str, facts: Sequence[Fact] = FACTS, grouped: bool = True) -> Iterator[Row]:
    for fact in facts:
        value, *wrong = _values(rng, fact.value)
        yield Row(
            question=fact.question.format(s=subject),
            answer=fact.answer.format(s=subject, v=value),
            paraphrased_question=fact.paraphrased_question.format(s=subject),
            paraphrased_answer=fact.paraphrased_answer.format(s=subject, v=value),
            perturbed_answer=tuple(fact.paraphrased_answer.format(s=subject, v=v) for v in wrong),
            group=subject if grouped else "",
        )


def _values(rng: random.Random, pattern: str, count: int = 5) -> list[str]:
    """`count` fillings of a pattern that agree in no word drawn from POOLS."""
    draws = {name: rng.sample(words.split(), count) for name, words in POOLS.items()}
    draws |= {f"{name}2": draws[name][1:] + draws[name][:1] for name in ("job", "goods")}
    return [pattern.format(**{name: words[i] for name, words in draws.items()}) for i in range(count)]

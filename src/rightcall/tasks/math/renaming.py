"""Word problems with other names of people and other things: the same numbers, the same calculations.

A name is only exchanged for one of the same gender, so that pronouns fit, and only where it is surely
a first name: not beside another capital (`Jordan River`), and not a word besides (`Mark`, `Grace`).
Things are exchanged within a class in which whatever can be done with one can be done with another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from rightcall.augment.operation import Original, Rejected, Variant
from rightcall.chain import JSON, Problem

WOMEN = (
    "Alice Amanda Amy Andrea Angela Anna Anne Barbara Betty Brenda Brittany Carla Carol Caroline"
    " Catherine Christina Claire Cynthia Danielle Deborah Diana Donna Dorothy Elena Elizabeth Ella"
    " Ellen Emily Emma Erica Eva Evelyn Fiona Gina Hannah Heather Helen Irene Iris Isabella Jane Janet"
    " Janice Jenna Jennifer Jenny Jessica Joan Josephine Joyce Judith Julia Julie Karen Kate Katherine"
    " Kathleen Katie Kayla Kimberly Kristin Laura Lauren Leah Lena Linda Lisa Lucy Lydia Maggie"
    " Margaret Maria Marie Martha Mary Maya Megan Melanie Melissa Mia Michelle Molly Monica Nancy"
    " Naomi Natalie Nicole Nina Nora Olga Olivia Pamela Patricia Paula Rachel Rebecca Rosa Ruth"
    " Samantha Sandra Sara Sarah Sharon Shirley Sofia Sonia Sophia Stella Stephanie Susan Tamara Tanya"
    " Teresa Tina Valerie Vanessa Vera Veronica Victoria Wanda Wendy Yara Yolanda Zoe"
).split()
MEN = (
    "Aaron Adam Alan Albert Alexander Andrew Andy Anthony Arthur Ben Benjamin Bernard Bobby Brandon"
    " Brian Bruce Bryan Caleb Carl Carlos Charles Charlie Christopher Dan Daniel David Dennis Derek"
    " Diego Donald Douglas Edward Edwin Eric Ernest Ethan Eugene Felix Fernando Frank Fred George"
    " Gerald Gilbert Greg Gregory Harold Harry Henry Howard Hugo Ian Ivan Jack Jacob Jake James Jason"
    " Jeff Jeffrey Jeremy Jerry Jimmy Joe Joel John Jonathan Jose Joseph Joshua Juan Justin Keith"
    " Kenneth Kevin Kyle Larry Leo Leonard Liam Louis Lucas Luis Luke Marcus Mario Martin Matthew"
    " Michael Mike Nathan Nicholas Noah Oliver Omar Oscar Patrick Paul Pedro Peter Philip Ralph Ravi"
    " Raymond Ricardo Richard Robert Roger Ronald Roy Ryan Samuel Scott Sean Simon Stanley Stephen"
    " Steve Steven Theo Thomas Tim Timothy Tom Tommy Tony Tyler Victor Vincent Walter William Xavier"
    " Zachary"
).split()
_NEVER_NEW = frozenset({"Jack", "Dan", "Ben", "Scott", "Victoria", "Carol", "Joyce"})
"""Names that may be taken for something else, or for the other gender, where they are new."""
_GENDERS: Mapping[str, Sequence[str]] = {name: names for names in (WOMEN, MEN) for name in names}
_TITLE = (
    r"(?:Mr|Mrs|Ms|Miss|Dr|Mister|Uncle|Aunt|Grandma|Grandpa|King|Queen|Saint|St|Sir|Professor|Coach)"
)

_THINGS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("apple", "apples"),
        ("pear", "pears"),
        ("peach", "peaches"),
        ("plum", "plums"),
        ("mango", "mangoes"),
    ),
    (("orange", "oranges"), ("lemon", "lemons"), ("lime", "limes")),
    (("cookie", "cookies"), ("muffin", "muffins"), ("cupcake", "cupcakes"), ("brownie", "brownies")),
    (("pencil", "pencils"), ("pen", "pens"), ("marker", "markers"), ("crayon", "crayons")),
    (("marble", "marbles"), ("bead", "beads"), ("seashell", "seashells")),
    (("sticker", "stickers"), ("stamp", "stamps"), ("postcard", "postcards")),
    (("rose", "roses"), ("tulip", "tulips"), ("daisy", "daisies"), ("lily", "lilies")),
    (("carrot", "carrots"), ("potato", "potatoes"), ("turnip", "turnips"), ("onion", "onions")),
    (("shirt", "shirts"), ("sweater", "sweaters")),
    (("notebook", "notebooks"), ("folder", "folders"), ("binder", "binders")),
    (("chair", "chairs"), ("stool", "stools"), ("bench", "benches")),
    (("lollipop", "lollipops"), ("caramel", "caramels")),
    (("sheep", "sheep"), ("goat", "goats")),
)
"""Things, singular and plural, by classes."""
_TIED = re.compile(
    r"tree|pie|juice|sauce|cider|orchard|peel|skin|seed|slice|dough|flour|batter|bake|oven|recipe|chip|sugar"
    r"|chocolate|frosting|icing|sharpen|ink|lead|eraser|draw|shoot|sew|thread|bracelet|necklace|album|mail"
    r"|knit|rocking|candle|letter|post|bouquet|petal|thorn|root|mash|fries|fry|soup|salad|wool|milk|farm|sleeve|collar|zip|page"
    r"|paper|sit|seat|corn|cotton|bar|cane|shaped|patch|bush|baby|sweet|rainbow|alphabet|spell|color",
    re.I,
)
"""A text with one of these may say of a thing what holds of it alone."""
_ONE_OF = re.compile(r"\b(?:an?|one|each|every|per|another|single|1)\s+(?:\w+\s+)?$", re.I)
_FOLLOW = re.compile(
    r"[.,;:?!]|\s+(?:and|or|in|on|at|for|from|to|with|that|which|who|than|as|are|is|were|was|will|would|can"
    r"|each|per|every|left|if|when|by|does|do|did|has|have|had|the|he|she|they|of|equally|altogether|total"
    r"|more|less|among|between|into|after|before|so|but|then|costs?|a|there|away|remaining)\b|\s*$"
)


def rename(original: Original, rng: Random) -> Variant:
    """Other people and other things.

    "Ann has 3 apples. She eats 2 of Tom's." becomes "Laura has 3 pears. She eats 2 of Eric's."
    """
    problem = original.problem
    new = {**_new_names(problem.question, rng), **_new_things(problem.question, rng)}
    if not new:
        raise Rejected("no name or thing that can be exchanged")
    replies = {
        chain.key: [exchanged(step.reply, new) for step in chain.steps] for chain in original.chains
    }
    return Variant(_renamed(problem, new), replies)


def exchanged(text: str, new: Mapping[str, str]) -> str:
    """A text with other words, whole words only; capitals at the start of a sentence, `a` and `an`, and
    what follows an apostrophe fit the new ones.

    >>> exchanged("James' apple. An apple?", {"James": "Eric", "apple": "pear"})
    "Eric's pear. A pear?"
    """
    known = "|".join(sorted(map(re.escape, new), key=len, reverse=True))
    pattern = re.compile(
        rf"(?:\b(?P<article>[Aa]n?)(?P<space>\s+))?\b(?P<word>(?i:{known}))\b(?P<own>['’]s?(?!\w))?"
    )

    def put(match: re.Match[str]) -> str:
        word = match["word"]
        lower = word.lower()
        target = new.get(word) or new.get(lower)
        if target is None or (word not in new and word not in (lower.capitalize(), lower.upper())):
            return match[0]
        target = target.capitalize() if word[0].isupper() and word not in new else target
        target = target.upper() if word.isupper() and len(word) > 1 else target
        article = match["article"] or ""
        if article and word.lower() in new:
            article = article[0] + ("n" if target[0].lower() in "aeio" else "")
        own = match["own"] or ""
        if own and not own.endswith("s") and not target.endswith("s"):
            own += "s"
        return f"{article}{match['space'] or ''}{target}{own}"

    return pattern.sub(put, text)


def _renamed(problem: Problem, new: Mapping[str, str]) -> Problem:
    metadata = {
        key: _in_texts(value, new) if key in ("stem", "options") else value
        for key, value in problem.metadata.items()
    }
    update = {
        "question": exchanged(problem.question, new),
        "gold": tuple(exchanged(text, new) for text in problem.gold),
        "metadata": metadata,
    }
    return problem.model_copy(update=update)


def _in_texts(value: JSON, new: Mapping[str, str]) -> JSON:
    if isinstance(value, str):
        return exchanged(value, new)
    return {key: exchanged(str(item), new) for key, item in value.items()}


# --- people ---------------------------------------------------------------------------------------


def _new_names(text: str, rng: Random) -> dict[str, str]:
    """Name → another one, of those that surely are people's."""
    if re.search(r"\bletters?\b|alphabet|vowel|spell|nicknam|initials?\b|rhym|named after", text, re.I):
        return {}
    capitals = set(re.findall(r"\b[A-Z][a-z]+", text))
    found = sorted(name for name in capitals if name in _GENDERS and _is_person(name, text))
    lower = set(re.findall(r"[a-z]+", text))
    found = [name for name in found if name.lower() not in lower]
    found = [name for name in found if not any(_alike(name, other) for other in capitals - {name})]
    new: dict[str, str] = {}
    for name in found:
        taken = capitals | set(new.values())
        open_ = [
            other
            for other in _GENDERS[name]
            if other not in _NEVER_NEW
            and not other.endswith("s")
            and not any(_alike(other, one) for one in taken)
        ]
        new[name] = rng.choice(open_)
    return new


def _alike(name: str, other: str) -> bool:
    """Whether one may be short for the other, or taken for it."""
    return name[:3] == other[:3]


def _is_person(name: str, text: str) -> bool:
    """Whether every mention stands by itself, and is no part of a longer name."""
    for match in re.finditer(rf"\b{name}\b", text):
        before, after = text[: match.start()], text[match.end() :]
        if re.match(r"\s+(?!I\b)[A-Z]|-|\s+(?:Street|River)|['’](?!s?\b)(?!\s)", after):
            return False
        if re.search(rf"\b{_TITLE}\.?\s+$|[A-Za-z]-$", before):
            return False
        if re.search(r"\b[A-Z]\w*\s+$", before) and not re.search(
            r"(?:^|[.?!:,\"“]\s*)[A-Z]\w*\s+$", before
        ):
            return False
    return True


# --- things ---------------------------------------------------------------------------------------


def _new_things(text: str, rng: Random) -> dict[str, str]:
    """A word → another one, singular and plural of a thing; at most one thing of a class."""
    if _TIED.search(text):
        return {}
    words = set(re.findall(r"[a-z]+", text.lower()))
    new: dict[str, str] = {}
    for things in _THINGS:
        here = [thing for thing in things if words & set(thing)]
        open_ = [thing for thing in things if not words & set(thing)]
        if len(here) != 1 or not open_ or not _exchangeable(here[0], text):
            continue
        other = rng.choice(open_)
        new |= dict(zip(here[0], other, strict=True))
    return new


def _exchangeable(thing: tuple[str, str], text: str) -> bool:
    """Whether no mention is part of a compound (`apple stand`, `cherry-apple`), a name, or another word
    (`The rest are orange.`, `Prices rose.`)."""
    singular, plural = thing
    for word in thing:
        for match in re.finditer(rf"\b{word}\b", text, re.I):
            before, after = text[: match.start()], text[match.end() :]
            starts = not before or re.search(r"[.?!]\s+$", before)
            if (
                not _FOLLOW.match(after)
                or before.endswith("-")
                or (match[0][0].isupper() and not starts)
            ):
                return False
            if word == singular != plural and not _ONE_OF.search(before):
                return False
    return True

"""What augmentation does with problems of first-order logic: `fol`, `folio` and `logical_entailment`.

Each operation changes the text and, with it, the formulas of all chains (see
`rightcall.tasks.fol.retelling`); the label is proved again from the new gold formulas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rightcall.augment.operation import Operation, Original, Rejected, Variant
from rightcall.chain import JSON, Problem
from rightcall.errors import CallError
from rightcall.tasks.fol import english, prover
from rightcall.tasks.fol.english import ANY, Rule, Sentence
from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Constant,
    Exists,
    ForAll,
    Formula,
    Implies,
    Not,
    Or,
    Term,
    Xor,
    constants,
    negated,
    parse,
    predicates,
    to_text,
)
from rightcall.tasks.fol.generator import ASKED, Distractors, Size, question_of, theory_key
from rightcall.tasks.fol.prover import Verdict
from rightcall.tasks.fol.retelling import (
    ANSWERS,
    LeftOut,
    Telling,
    Told,
    denied,
    distracted,
    exchanged_gold,
    gold_told,
    known_label,
    permuted,
    read,
    renamed,
    rewritten,
)
from rightcall.tasks.fol.rewriting import has_law, rewriting
from rightcall.tasks.fol.wording import Renaming, Unlinked, kinds, words_of
from rightcall.tasks.fol.words import NAMES, Lexicon, NoWordLeft, Word, WordKind

MOST_ADDED = 3
"""Distracting sentences."""
REWRITTEN = 0.5
"""Share of the formulas that are written another way."""
_LABELS = {
    Verdict.ENTAILED: "True",
    Verdict.CONTRADICTED: "False",
    Verdict.UNDECIDED: "Unknown",
}


# --- how problems are told --------------------------------------------------------------------------


def _parsed(told: Told) -> tuple[list[Formula], Formula]:
    return [parse(text) for text in told.premises], parse(told.goal)


def _verdict(told: Told) -> Verdict | None:
    try:
        premises, goal = _parsed(told)
        return prover.decide(premises, goal, countermodel=False).verdict
    except CallError:
        return None


def _decided(told: Told) -> str | None:
    verdict = _verdict(told)
    return _LABELS.get(verdict) if verdict is not None else None


def _said(observation: str) -> str | None:
    answer = observation.partition(":")[0]
    return answer if answer in ANSWERS else None


def _gold(told: Told, answer: str) -> tuple[str, ...]:
    premises = (f'premise("{text}")' for text in told.premises)
    return (*premises, f'goal("{told.goal}")', f'stop("{answer}")')


def _made(problem: Problem, told: Told, answer: str, question: str, **facts: JSON) -> Problem:
    metadata = {**problem.metadata, "premises": list(told.premises), "goal": told.goal, **facts}
    update = {
        "question": question,
        "answer": answer,
        "gold": _gold(told, answer),
        "metadata": metadata,
    }
    return problem.model_copy(update=update)


def _read_theory(problem: Problem) -> Told:
    text, found, statement = problem.question.rpartition(f"\n{ASKED}")
    if not found:
        raise Rejected("a question of another form")
    return gold_told(problem, re.split(r"(?<=\.) (?=[A-Z])", text), statement)


def _theory(problem: Problem, told: Told, answer: str) -> Problem:
    key = theory_key(told.sentences, told.statement)
    question = question_of(told.sentences, told.statement)
    return _made(problem, told, answer, question, theory=key)


FOL = Telling(_read_theory, _theory, _decided, _said)

_STATEMENT = "Statement: "


def _read_story(problem: Problem) -> Told:
    *sentences, last = problem.question.split("\n")
    if not last.startswith(_STATEMENT):
        raise Rejected("a question of another form")
    return gold_told(problem, sentences, last.removeprefix(_STATEMENT))


def _story(problem: Problem, told: Told, answer: str) -> Problem:
    question = "\n".join([*told.sentences, _STATEMENT + told.statement])
    made = _made(problem, told, answer, question)
    return made.model_copy(update={"difficulty": len(told.sentences)})


STORY = Telling(_read_story, _story, _decided, _said)


def _read_pair(problem: Problem) -> Told:
    found = re.fullmatch(r"First: (.*)\nSecond: (.*)", problem.question)
    if found is None:
        raise Rejected("a question of another form")
    return gold_told(problem, [found[1]], found[2])


def _pair(problem: Problem, told: Told, answer: str) -> Problem:
    question = f"First: {told.sentences[0]}\nSecond: {told.statement}"
    return _made(problem, told, answer, question)


def _entailed(told: Told) -> str | None:
    verdict = _verdict(told)
    if verdict in (None, Verdict.GAVE_UP):
        return None
    return str(verdict in (Verdict.ENTAILED, Verdict.INCONSISTENT))


def _entails(observation: str) -> str | None:
    """What contradicts itself entails everything."""
    said = _said(observation)
    return "True" if observation.startswith("The premises contradict") else said and str(said == "True")


PAIR = Telling(_read_pair, _pair, _entailed, _entails)


# --- fol: rename ------------------------------------------------------------------------------------


def rename(original: Original, rng: Random) -> Variant:
    """Other words for all predicates and names, in the text and in all chains.

    "Every cat is red. Tom is a cat." becomes "Every worm is shy. Anne is a worm.", `cat(Tom)`
    becomes `worm(Anne)`.
    """
    told = known_label(FOL, original.problem)
    size, made_up = _size(original), rng.random() < _size(original).made_up
    renaming = _renaming(told, _lexicon(rng, told, size, made_up, reuse=True))
    return _renamed(original, FOL, told, renaming, made_up_words=made_up)


def _size(original: Original) -> Size:
    size = getattr(original.task, "size", None)
    return size if isinstance(size, Size) else Size()


def _symbols(told: Told) -> tuple[list[tuple[str, int]], list[str]]:
    """Predicates and names, in order."""
    premises, goal = _parsed(told)
    formulas = [*premises, goal]
    predicated = sorted(set().union(*map(predicates, formulas)))
    return predicated, sorted(set().union(*map(constants, formulas)))


def _lexicon(rng: Random, told: Told, size: Size, made_up: bool, reuse: bool = False) -> Lexicon:
    """New words for a text; its own are new too if `reuse`, since all of them are replaced."""
    taken = words_of(told.text)
    if reuse:
        predicated, names = _symbols(told)
        taken -= {name.lower() for name, _ in predicated} | {name.lower() for name in names}
    return Lexicon(rng, made_up, size.words, taken)


def _renaming(told: Told, words: Lexicon) -> Renaming:
    predicated, names = _symbols(told)
    if any(arity not in (1, 2) for _, arity in predicated):
        raise Rejected("a predicate of another kind")
    used = kinds([*told.sentences, told.statement], [n for n, arity in predicated if arity == 1])
    try:
        forms = {name: words.name() for name in names}
        for name, arity in predicated:
            if arity == 1 and len(used[name]) != 1:
                raise Rejected("a word is not both noun and adjective")
            forms[name] = words.verb().text if arity == 2 else words.word(min(used[name])).text
    except NoWordLeft:
        raise Rejected("no word is left") from None
    if len({name.lower() for name in forms}) != len(forms):
        raise Rejected("a word has two meanings")
    return Renaming({name.lower(): new for name, new in forms.items()})


def _renamed(
    original: Original, telling: Telling, told: Told, renaming: Renaming, **facts: JSON
) -> Variant:
    try:
        new = Told(
            tuple(renaming.text(sentence) for sentence in told.sentences),
            renaming.text(told.statement),
            tuple(renaming.formula(text) for text in told.premises),
            renaming.formula(told.goal),
        )
    except Unlinked:
        raise Rejected("a name is not in the text") from None
    if renaming.strict:
        _check_linked(told)

    def formula(text: str) -> str:
        try:
            return renaming.formula(text)
        except Unlinked:
            raise LeftOut("a name is not in the text") from None

    made = renamed(original, telling, told, new, renaming.text, formula)
    metadata = {**made.problem.metadata, **facts}
    problem = made.problem.model_copy(update={"metadata": metadata})
    return Variant(problem, made.replies, left_out=made.left_out)


def _check_linked(told: Told) -> None:
    """Every name of a formula is a word of its sentence."""
    pairs = [*zip(told.sentences, told.premises, strict=True), (told.statement, told.goal)]
    for sentence, text in pairs:
        formula = parse(text)
        names = {name.lower() for name, _ in predicates(formula)}
        if not names | {name.lower() for name in constants(formula)} <= words_of(sentence):
            raise Rejected("a name is not in the text")


# --- fol: permute, distract -------------------------------------------------------------------------


def permute(original: Original, rng: Random) -> Variant:
    """The sentences in another order, and the premises of all chains with them: what was derived from
    "P1", "P2" is derived from "P3", "P1"."""
    return permuted(original, rng, FOL)


def distract(original: Original, rng: Random) -> Variant:
    """One to three sentences more, of new words or of new properties of those that the text is about:
    "Tom is a miner.", "No one who is wary is a judge." Each chain records them too."""
    told = FOL.read(original.problem)
    size = _size(original)
    room = min(MOST_ADDED, size.max_sentences - len(told.sentences))
    if room < 1:
        raise Rejected("the theory is as long as it may be")
    made_up = bool(original.problem.metadata.get("made_up_words"))
    lexicon = _lexicon(rng, told, size, made_up)
    said = _distracting(rng, lexicon, _symbols(told)[1], rng.randint(1, room))
    made = distracted(original, rng, FOL, [(one.text, one.formula) for one in said])
    used = {*made.problem.metadata.get("constructs", ()), *(c for one in said for c in one.constructs)}
    metadata = {**made.problem.metadata, "constructs": sorted(used)}
    problem = made.problem.model_copy(update={"metadata": metadata})
    return Variant(problem, made.replies, left_out=made.left_out)


def _distracting(rng: Random, words: Lexicon, names: Sequence[str], count: int) -> list[Sentence]:
    makes = Distractors(rng, words, (), tuple(names))
    try:
        return [makes.sentence() for _ in range(count)]
    except NoWordLeft:
        raise Rejected("no word is left") from None


# --- fol: negate ------------------------------------------------------------------------------------


def negate(original: Original, rng: Random) -> Variant:
    """The opposite statement, and the opposite goal in all chains.

    "Tom is red." becomes "Tom is not red.", "Every cat is red." becomes "Some cat is not red.", and a
    right answer "True" becomes "False".
    """
    told = FOL.read(original.problem)
    said = _opposite(rng, told)
    return denied(original, FOL, said.text, to_text(said.formula))


def _opposite(rng: Random, told: Told) -> Sentence:
    goal = parse(told.goal)
    made = _opposite_said(rng, goal, _Vocabulary.of(told))
    if made is not None:
        return made
    begun = told.statement if told.statement.split()[0] in _names(told) else _lowered(told.statement)
    opening = rng.choice(["It is not true that", "It is not the case that"])
    if told.statement.startswith("It is "):
        raise Rejected("a statement that is denied already")
    return Sentence(f"{opening} {begun}", Not(goal))


def _names(told: Told) -> set[str]:
    return set(_symbols(told)[1])


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


@dataclass(frozen=True)
class _Vocabulary:
    """Formulas read back as what a sentence can say."""

    used: Mapping[str, set[WordKind]]

    @classmethod
    def of(cls, told: Told) -> _Vocabulary:
        predicated, _ = _symbols(told)
        traits = [name for name, arity in predicated if arity == 1]
        return cls(kinds([*told.sentences, told.statement], traits))

    def literal(self, formula: Formula) -> english.Literal | None:
        match formula:
            case Not(Atom() as atom):
                made = self.literal(atom)
                return ~made if made is not None else None
            case Atom(name, (subject,)) if len(self.used.get(name, ())) == 1:
                return english.Literal(Word(name, min(self.used[name])), (_term(subject),))
            case Atom(name, (subject, other)):
                return english.Literal(Word(name, WordKind.VERB), (_term(subject), _term(other)))
        return None


def _term(term: Term) -> str:
    return term.name if isinstance(term, Constant) else ANY


def _opposite_said(rng: Random, goal: Formula, words: _Vocabulary) -> Sentence | None:
    """The negation in a sentence of its own; None if there is none as simple as the goal."""
    literal = words.literal(goal)
    if literal is not None:
        return english.fact(rng, [~literal])
    match goal:
        case And(left, right) | Or(left, right) | Xor(left, right):
            return _of_two(rng, type(goal), words.literal(left), words.literal(right))
        case ForAll(_, Implies(left, right)):
            sort, said = words.literal(left), words.literal(right)
            if sort and said and sort.positive and english.speakable(~said):
                return english.existential(rng, [sort, ~said])
        case Exists(_, And(left, right)):
            sort, said = words.literal(left), words.literal(right)
            if sort and said and english.speakable(sort):
                return _rule(rng, Rule((sort,), (~said,)))
    return None


_DUAL: dict[type[Formula], str] = {And: "or", Or: "and", Xor: "xor"}


def _of_two(
    rng: Random,
    kind: type[Formula],
    left: english.Literal | None,
    right: english.Literal | None,
) -> Sentence | None:
    """De Morgan's laws; and what is not "either a or b" is "either a or not b". Half of the time the
    whole is denied instead."""
    if left is None or right is None or left.subject != right.subject or rng.random() < 0.5:
        return None
    said = (left, ~right) if kind is Xor else (~left, ~right)
    if not all(english.speakable(one) for one in said):
        return None
    return english.fact(rng, said, _DUAL[kind])


def _rule(rng: Random, said: Rule) -> Sentence | None:
    try:
        return english.rule(rng, said)
    except ValueError:  # no phrasing fits
        return None


# --- all: rewrite -----------------------------------------------------------------------------------


def rewrite(original: Original, rng: Random) -> Variant:
    """Equivalent formulas in the chains: `forall x (cat(x) -> red(x))` becomes
    `forall x (~red(x) -> ~cat(x))`. The text stays."""
    return _rewritten(original, rng, FOL)


def _rewritten(original: Original, rng: Random, telling: Telling) -> Variant:
    told = known_label(telling, original.problem)
    gold = [parse(text) for text in (*told.premises, told.goal)]
    fit = [formula for formula in gold if has_law(formula)]
    if not fit:
        raise Rejected("no law applies")
    sure = rng.choice(fit)
    other: dict[Formula, Formula] = {}

    def exchange(text: str) -> str:
        made = read(text)
        if made is None:
            return text
        if made not in other:
            chosen = made == sure or rng.random() < REWRITTEN
            new = rewriting(made, rng) if chosen else None
            other[made] = new if new is not None and prover.equivalent(made, new) else made
        if other[made] == made:
            return text
        return to_text(other[made], "unicode" if re.search("[¬∀∃∧∨⊕→↔]", text) else "ascii")

    return rewritten(original, telling, exchange, exchanged_gold(original, exchange))


# --- folio ------------------------------------------------------------------------------------------


def rename_people(original: Original, rng: Random) -> Variant:
    """Other given names for people: "James is popular." becomes "Alice is popular.", and `james`
    becomes `alice`. Stories that say "he" or "her" stay as they are."""
    told = known_label(STORY, original.problem)
    if re.search(r"(?<!/)\b(he|she|him|her|his|hers|himself|herself)\b(?!/)", told.text, re.I):
        raise Rejected("a pronoun that tells a man from a woman")
    people = _people(told)
    if not people:
        raise Rejected("no given name of a person")
    free = [name for name in NAMES if name.lower() not in words_of(told.text)]
    forms = dict(zip(people, rng.sample(free, len(people)), strict=True))
    return _renamed(original, STORY, told, Renaming(forms, strict=False))


def _people(told: Told) -> list[str]:
    """Given names (in lower case) that are constants, stand alone in the text, and are part of no other
    name."""
    given = {name.lower() for name in NAMES}
    predicated, individuals = _symbols(told)
    everything = {name.lower() for name in (*individuals, *(name for name, _ in predicated))}
    found = []
    for name in sorted({one.lower() for one in individuals} & given):
        alone = sum(name in other for other in everything) == 1
        spelled = re.findall(rf"(?<![\w-]){name}(?![\w-])(?! (?-i:[A-Z]))", told.text, re.I)
        capital = [one for one in spelled if one[0].isupper()]
        whole = re.findall(rf"\b{name}\b", told.text, re.I)
        if alone and spelled and len(capital) == len(spelled) == len(whole):
            found.append(name)
    return found


_REFERS_BACK = re.compile(
    r"^(he|she|it|they|his|her|its|their|such|however|then|also|but|and|so|therefore|thus)\b"
    r"|\b(this|these|those|former|latter|too|above|aforementioned)\b",
    re.I,
)


def permute_story(original: Original, rng: Random) -> Variant:
    """The sentences in another order, where none of them refers back to another."""
    told = STORY.read(original.problem)
    if any(_REFERS_BACK.search(sentence) for sentence in told.sentences):
        raise Rejected("a sentence that refers back")
    return permuted(original, rng, STORY)


def distract_story(original: Original, rng: Random) -> Variant:
    """One to three sentences more, about words that the story does not have: "Every sailor is
    cheerful.", with `forall x (Sailor(x) -> Cheerful(x))`."""
    told = STORY.read(original.problem)
    taken = words_of(told.text) | _parts(told)
    said = _distracting(rng, Lexicon(rng, False, taken=taken), (), rng.randint(1, MOST_ADDED))
    added = [(one.text, _as_in_stories(one.formula)) for one in said]
    return distracted(original, rng, STORY, added)


def _parts(told: Told) -> set[str]:
    """The words in the names of the formulas: `ProfessionalPlayer` has two."""
    predicated, individuals = _symbols(told)
    names = [*individuals, *(name for name, _ in predicated)]
    parts = (re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name) for name in names)
    return {part.lower() for some in parts for part in some} | {name.lower() for name in names}


def _as_in_stories(formula: Formula) -> Formula:
    """With a capital for predicates, and none for names."""
    forms = {name: name.capitalize() for name, _ in predicates(formula)}
    forms |= {name: name.lower() for name in constants(formula)}
    text = to_text(formula)
    return parse(re.sub(r"\w+", lambda found: forms.get(found[0], found[0]), text))


def negate_story(original: Original, rng: Random) -> Variant:
    """The opposite statement: "Tom is a pet." becomes "It is not true that Tom is a pet."""
    told = STORY.read(original.problem)
    opening = rng.choice(["It is not true that", "It is not the case that"])
    statement = told.statement.strip()
    if re.match(r"it is (not|false)\b", statement, re.I):
        raise Rejected("a statement that is denied already")
    if re.search(r"[.!?;](?=\s)", statement):
        raise Rejected("more than one sentence")
    begun = statement if _begins_with_name(told, statement) else _lowered(statement)
    return denied(original, STORY, f"{opening} {begun}", to_text(negated(parse(told.goal))))


_COMMON = frozenset(
    "a all an any anyone at each either every everyone everything if in neither nobody no none not"
    " nothing on one only people some someone something the there these they things those when"
    " whenever whoever".split()
)


def _begins_with_name(told: Told, statement: str) -> bool:
    """Whether the capital of the first word stays within a sentence. Raises `Rejected` where nothing
    tells."""
    first = re.split(r"[^\w]", statement)[0]
    if first.lower() in _COMMON or re.match(r"\w+s (are|have|do)\b", statement):
        return False
    if first.isupper() or re.search(rf"[^.\n] {re.escape(first)}\b", told.text):
        return True
    if re.search(rf"\b{re.escape(first.lower())}\b", told.text):
        return False
    if any(name.lower().startswith(first.lower()) for name in _symbols(told)[1]):
        return True
    raise Rejected("a first word that may be a name")


def rewrite_story(original: Original, rng: Random) -> Variant:
    """Equivalent formulas in the chains; the text stays. See `rewrite`."""
    return _rewritten(original, rng, STORY)


# --- logical entailment -----------------------------------------------------------------------------


def rename_letters(original: Original, rng: Random) -> Variant:
    """Other letters: `(p&q)` becomes `(e&u)`."""
    told = known_label(PAIR, original.problem)
    letters = [name for name, _ in _symbols(told)[0]]
    if any(len(letter) != 1 for letter in letters):
        raise Rejected("a proposition of more than one letter")
    new = rng.sample("abcdefghijklmnopqrstuvwxyz", len(letters))
    return _renamed(original, PAIR, told, Renaming(dict(zip(letters, new, strict=True)), strict=False))


def rewrite_pair(original: Original, rng: Random) -> Variant:
    """Equivalent formulas in the chains; the text stays. See `rewrite`."""
    return _rewritten(original, rng, PAIR)


# --- by task ----------------------------------------------------------------------------------------

Operations = Mapping[str, Operation]

FOL_OPERATIONS: Operations = {
    "rename": rename,
    "permute": permute,
    "distract": distract,
    "negate": negate,
    "rewrite": rewrite,
}
STORY_OPERATIONS: Operations = {
    "rename": rename_people,
    "permute": permute_story,
    "distract": distract_story,
    "negate": negate_story,
    "rewrite": rewrite_story,
}
PAIR_OPERATIONS: Operations = {"rename": rename_letters, "rewrite": rewrite_pair}

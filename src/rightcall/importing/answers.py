"""The answer in a final message.

A model that calls functions by name ends with words, in many styles: "The answer is **5**.",
`\\boxed{5}`, "So Tina has **$170.40**.". What is taken for its answer decides whether the chain is
right or wrong, so nothing is guessed. Three things are read: an answer with a label, a value in bold,
and a message that is nothing but the answer. What is in doubt is not read: several values of which
none is said to be the answer, or words that take it back. Then, and where what was read is no answer
to the problem (`is_clear`), the attempt is listed and is neither right nor wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from rightcall.leaks import normalised
from rightcall.tasks.math.answers import values
from rightcall.tasks.math.numbers import read_number

READ = "answer read from the final message"
WHOLE = "final message taken as the answer"


def answer_of(text: str) -> str | None:
    """The answer that a text names: the last of `Answer: X`, `the answer is X`, `#### X` and
    `\\boxed{X}`, or else a value in bold; without markdown. None if there is none of these, or it is in
    doubt which one is meant.

    >>> answer_of("So **Tina** has **$170.40**."), answer_of("Hence \\\\boxed{\\\\text{B}}.")
    ('$170.40', 'B')
    >>> answer_of("**5** of them are red, so the total is 6")
    """
    found, sure = _named(text)
    return found if sure else None


def read_final(text: str) -> tuple[str | None, str]:
    """The answer of a final message and how it was read; None where it cannot be told."""
    found, sure = _named(text)
    if found is not None:
        return (found, READ) if sure else (None, "")
    if not sure or _UNSURE.search(text, 1) or _UNABLE.search(text):
        return None, ""
    verdict = _verdict_in(_spaced(text).strip())
    if _HEDGED.search(text) and values(text):
        return None, ""
    return (verdict, READ) if verdict else (text, WHOLE)


def is_clear(said: str, gold: str, *, right: bool, whole: bool) -> bool:
    """Whether the verdict on an answer that was read can be trusted. A right one can, unless a number
    only stands somewhere in a long text (`whole`: the message itself is the answer). A wrong one must
    be of the gold answer's kind, and must not hold that, written so that the task does not take it."""
    if right:
        return not whole or read_number(gold) is None or may_answer(said, gold)
    within = f" {normalised(gold)} " in f" {normalised(said)} "
    return may_answer(said, gold) and not within and not _same(said, gold)


def may_answer(said: str, gold: str) -> bool:
    """Whether a text is of the kind of a gold answer: one number, a verdict or an option where that is
    one; where that has other digits, as a date has, written in the same way; else about as long.

    >>> may_answer("3 books and 4 pens", "7"), may_answer("It is False.", "True")
    (False, True)
    >>> may_answer("March 1, 2024", "2024-03-02"), may_answer("2024-03-01", "2024-03-02")
    (False, True)
    """
    if read_number(gold) is not None:
        return len(said.split()) <= _LONGEST and bool(values(said))
    for kind in (_VERDICT, _OPTION):
        if kind.fullmatch(gold.strip()):
            return len({_bare(one) for one in kind.findall(said)}) == 1
    if any(one.isdigit() for one in gold):
        return _shape(said) == _shape(gold)
    other = any(one.isdigit() for one in said) or _VERDICT.fullmatch(_bare(said))
    return not other and len(said.split()) <= len(gold.split()) + 3


def _shape(text: str) -> str:
    """How a text is written, whatever it says."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text.strip().rstrip(".")))


_LONGEST = 15
"""Words of a message that is nothing but an answer."""

# --- candidates ---------------------------------------------------------------------------------

_LABEL = re.compile(
    r"\\boxed ?\{(?P<boxed>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
    r"|#### ?(?=[^\s#])(?!(?:final |the )?answer\b)"
    r"|^[^\w\n]*(?:(?:the|my|final|correct) )*answer[^\w\n]*\n"
    r"|\b(?:answer|(?:correct|right|best) (?:option|choice)) ?(?:\bis\b ?:?|[:=]|(?=isn['’]t\b))\s?",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_FINAL = re.compile(
    r"\b(?:earlier|previous|first|initial|original|old|intermediate|wrong|incorrect|this|that|your|no"
    r"|not) ?$",
    re.IGNORECASE,
)
"""Before a label or a value: it is no final answer."""
_END = re.compile(
    r"[.?!](?=\s|$)|,? (?:because|since|rather than|instead of)\b|, (?:and )?not\b"
    r"|, (?:so|which|thus|hence|therefore)\b|\n",
    re.IGNORECASE,
)
"""Ends an answer within a text."""
_DENIAL = re.compile(
    r"(?:not|isn['’]t) (?P<denied>.+?)"
    r"(?:[,;.]? (?:but(?: rather)?(?: it is)?|it is|it['’]s|rather) (?P<meant>.+))?",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"(?:(?:indeed|now|also|quite|very) )?(?:correct|right|wrong|incorrect|helpful|useful|clear|simple|"
    r"obvious|complete|reasonable|exact|consistent|as follows|above|below|here|given|found|shown|"
    r"confirmed|verified|checked|in|that)\b.*|not",
    re.IGNORECASE,
)
"""What is said about an answer."""
_UNSURE = re.compile(
    r"\b(?:wait|oops|actually|scratch that|however|mistaken?|wrong|incorrect|correction|re-?check|"
    r"double-check|not (?:right|correct|sure))\b|(?:^|[.?!]\s)no[,.!]",
    re.IGNORECASE,
)
"""After an answer: it may be taken back."""
_UNABLE = re.compile(
    r"\b(?:cannot|can['’]t|unable|don['’]t know|no idea|unclear|sorry)\b", re.IGNORECASE
)
_HEDGED = re.compile(
    r"\b(?:not|might|may|could|either|at (?:least|most)|(?:more|less|fewer|other) than)\b|n['’]t\b",
    re.IGNORECASE,
)
"""With a number: it is not said to be the answer."""
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")
_HEADING = re.compile(r"(?:step|part|case|question|problem|example|note)\b", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|therefore|hence|total|altogether|in all|finally|final|result|overall)\b|=",
    re.IGNORECASE,
)
_VERDICT = re.compile(r"\b(?:true|false|yes|no|unknown|uncertain)\b", re.IGNORECASE)
_BEGINS_VERDICT = re.compile(rf"({_VERDICT.pattern})(?: ?[,;:–—-].*)?", re.IGNORECASE)
_OPTION = re.compile(r"(?<!\w)(?:\([A-Ha-h]\)|[A-H](?:\b|\)))")
_LETTER = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice) )?(\([A-Ha-h]\)|[A-H]\)?)[.:]?")
_LETTER_AND_TEXT = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice) )?(?:\([A-Ha-h]\)|[A-H][).:]) .*")


class _Candidate(NamedTuple):
    """What a text may mean by its answer, and where it ends."""

    said: str
    start: int
    end: int
    is_value: bool
    """It holds a number, or is a verdict or an option: no mere words."""


def _named(text: str) -> tuple[str | None, bool]:
    """The answer that a text names, if it names one, and whether nothing speaks against it."""
    marked = _spaced(text)
    plain = re.sub(r"\*\*|__", "", marked)
    labelled, denied = _labelled(plain)
    found, sure, after = _last(labelled, plain)
    if found is not None and _HEDGED.search(found) and values(found):
        sure = False
    if found is None:
        found, sure, after = _in_bold(marked, denied)
    if found is None:
        return None, not denied
    return found, sure and not _UNSURE.search(after)


def _last(found: list[_Candidate], text: str) -> tuple[str | None, bool, str]:
    """The last candidate, one with a value before any of mere words; in doubt if another value stands
    in the same line and is not taken back. And the text after it."""
    found = [one for one in found if one.is_value] or found
    if not found:
        return None, True, ""
    last = found[-1]
    line = text.rfind("\n", 0, last.start)
    back = max((one.start() for one in _UNSURE.finditer(text, 0, last.start)), default=-1)
    beside = [one for one in found if one.start > line and one.end > back]
    sure = all(_same(one.said, last.said) for one in beside)
    return last.said, sure, text[last.end :]


def _labelled(text: str) -> tuple[list[_Candidate], list[str]]:
    """The answers that labels name, and those that the text denies."""
    labels = [*_LABEL.finditer(text)]
    found, denied = list[_Candidate](), list[str]()
    for label, following in zip_longest(labels, labels[1:]):
        start = following.start() if following else len(text)
        if _NOT_FINAL.search(text, max(0, label.start() - 20), label.start()):
            denied += [_plain(label["boxed"])] if label["boxed"] is not None else []
            continue
        if label["boxed"] is not None:
            found.append(_candidate(_plain(label["boxed"]), label.start(), label.end()))
            continue
        line = text.find("\n", label.end(), start)
        content = text[label.end() : start if line < 0 else line]
        said, no = _read(content)
        denied += [no] if no else []
        one = _candidate(said, label.start(), label.end() + _length(content))
        alone = line >= 0 or start == len(text)  # not cut off by another label
        if one.is_value or (alone and one.said and not _COMMENT.fullmatch(one.said)):
            found.append(one)
    return [one for one in found if not any(_same(one.said, no) for no in denied)], denied


def _read(content: str) -> tuple[str, str]:
    """The answer after a label, and one that is denied there; empty where there is none."""
    said = _plain(content)
    if denial := _DENIAL.fullmatch(said):
        denied, meant = _first(denial["denied"]), _first(denial["meant"] or "")
        if values(denied) or _VERDICT.fullmatch(denied) or _LETTER.fullmatch(denied):
            return meant if bool(values(meant)) is bool(values(denied)) else "", denied
    return _first(said), ""


def _first(said: str) -> str:
    said = _plain(said)
    end = _END.search(said)
    return _plain(said[: end.start()] if end else said)


def _length(content: str) -> int:
    """Of the answer at the beginning of a text."""
    end = None if _DENIAL.fullmatch(_plain(content)) else _END.search(content)
    return end.start() if end else len(content)


def _candidate(said: str, start: int, end: int) -> _Candidate:
    """With a verdict or an option as such."""
    letter = None
    if verdict := _BEGINS_VERDICT.fullmatch(said):
        said = verdict[1]
    elif letter := _LETTER.fullmatch(said):
        said = letter[1]
    heading = _HEADING.match(said) or said.endswith(":")
    is_value = not heading and bool(
        verdict or letter or _LETTER_AND_TEXT.fullmatch(said) or re.search(r"[\d\\]", said)
    )
    return _Candidate("" if heading else said, start, end, is_value)


def _in_bold(text: str, denied: list[str]) -> tuple[str | None, bool, str]:
    """The value in bold: one that no other number follows. Of several, the only one of the last line,
    if that concludes something."""
    found = [one for one in _bold(text) if not any(_same(one.said, no) for no in denied)]
    if not found:
        return None, True, ""
    last = found[-1]
    line = text.rfind("\n", 0, last.start) + 1
    others = [one for one in found if not _same(one.said, last.said)]
    sure = not others or (
        all(one.start < line for one in others)
        and _CONCLUDES.search(text, line, last.start) is not None
    )
    after = text[last.end :]
    alone = text[line : last.start].strip() == "" and after[:1] in ("", "\n")
    by_itself = alone and read_number(last.said) is not None
    return last.said, sure and (by_itself or not any(one.isdigit() for one in after)), after


def _bold(text: str) -> Iterator[_Candidate]:
    """Values in bold: no headings, and no words that are only stressed."""
    for match in _BOLD.finditer(text):
        said = _plain(match[1] or match[2])
        one = _candidate(said, match.start(), match.end())
        heading = said.endswith(":") or text.startswith((":", " :"), match.end())
        denied = _NOT_FINAL.search(text, max(0, match.start() - 20), match.start())
        if one.is_value and len(said.split()) <= 4 and not heading and not denied:
            yield one


def _verdict_in(text: str) -> str | None:
    """The verdict of a message of one short sentence: "The statement is false.", "Yes, he is."."""
    if len(text.split()) > _LONGEST or re.search(r"\d|\bnot\b|n['’]t\b|[.!?]\s", text):
        return None
    begins = _BEGINS_VERDICT.fullmatch(text.rstrip(".!"))
    found = _VERDICT.findall(text)
    if begins or len(found) != 1 or found[0].lower() in ("yes", "no"):
        return begins[1] if begins else None
    return str(found[0])


# --- texts --------------------------------------------------------------------------------------

_WRAPPED = re.compile(
    r"\\\((.*)\\\)|\\\[(.*)\\\]|\$(.*)\$|\\text ?\{(.*)\}|`(.*)`|\{(.*)\}|\"([^\"]*)\"|'([^']*)'",
    re.DOTALL,
)
_DATE = re.compile(r"\d[-:]\d")
"""Several numbers, of which the first is not the value."""
_MEANS = {"yes": "true", "no": "false", "uncertain": "unknown"}


def _same(one: str, other: str) -> bool:
    """Whether two answers are the same but for how they are written."""
    if _bare(one) == _bare(other):
        return True
    return not _DATE.search(one + other) and bool(values(one) & values(other))


def _bare(said: str) -> str:
    bare = said.lower().strip(" .!()")
    return _MEANS.get(bare, bare)


def _spaced(text: str) -> str:
    """With single spaces and line breaks: patterns go over runs of them again and again."""
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text))


def _plain(text: str) -> str:
    """Without markdown and math brackets."""
    text = re.sub(r"\*\*|__", "", text).strip().strip("*").strip()
    while (match := _WRAPPED.fullmatch(text.rstrip("."))) and len(text) > 1:
        text = next(part for part in match.groups() if part is not None).strip()
    return text.rstrip(".") if text.endswith(".") and not text.endswith("..") else text

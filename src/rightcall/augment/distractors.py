"""A bank of functions that a task does not need: small, real, and plausible for other tasks. Shown
beside a task's own they make a model read which function does what.

Each takes time that is linear in its arguments (sorting apart), whatever these are: a model that calls
one of them gets its answer and nothing worse.
"""

from __future__ import annotations

import datetime
import statistics
import string
from typing import Annotated

from pydantic import Field

from rightcall.errors import CallError
from rightcall.functions import function

Amount = Annotated[float, Field(ge=-1e12, le=1e12)]
"""A number of a size that calculations stay exact and short with."""
Days = Annotated[int, Field(ge=-400_000, le=400_000)]
Numbers = Annotated[list[Amount], Field(min_length=1, max_length=1000)]
Short = Annotated[str, Field(max_length=100)]
"""What is put in at many places."""


# --- text -----------------------------------------------------------------------------------------


@function(example='count_words("the cat sat")', trusted=True)
def count_words(text: str) -> int:
    """How many words a text has."""
    return len(text.split())


@function(example='reverse_text("stone")', trusted=True)
def reverse_text(text: str) -> str:
    """The letters of a text in reverse order."""
    return text[::-1]


@function(example='count_letter("banana", "a")', trusted=True)
def count_letter(text: str, letter: str) -> int:
    """How often a letter occurs in a text, whatever its case."""
    if len(letter) != 1:
        raise CallError("not one letter", value=letter, remedy='For example "a".')
    return text.lower().count(letter.lower())


@function(example='initials("Ada King Lovelace")', trusted=True)
def initials(name: str) -> str:
    """The first letters of a name."""
    return "".join(f"{part[0].upper()}." for part in name.split())


@function(example='longest_word("a very small house")', trusted=True)
def longest_word(text: str) -> str:
    """The longest word of a text, the first one if several are as long."""
    words = [word.strip(string.punctuation) for word in text.split()]
    return max(words, key=len, default="")


@function(example='replace_word("red or blue", "red", "green")', trusted=True)
def replace_word(text: str, old: str, new: Short) -> str:
    """A text with one word in the place of another."""
    return " ".join(new if word == old else word for word in text.split())


@function(example='is_palindrome("Never odd or even")', trusted=True)
def is_palindrome(text: str) -> bool:
    """Whether a text reads the same backwards, spaces and case aside."""
    letters = [letter for letter in text.lower() if letter.isalnum()]
    return letters == letters[::-1]


# --- dates and times ------------------------------------------------------------------------------


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise CallError("not a date", value=text, remedy='Write it as "2024-03-31".') from error


def _minutes(text: str) -> int:
    try:
        time = datetime.time.fromisoformat(text)
    except ValueError as error:
        raise CallError("not a time", value=text, remedy='Write it as "09:30".') from error
    return time.hour * 60 + time.minute


@function(example='days_between("2024-02-27", "2024-03-02")', trusted=True)
def days_between(first: str, last: str) -> int:
    """How many days lie between two dates."""
    return (_date(last) - _date(first)).days


@function(example='date_after("2024-12-30", 3)', trusted=True)
def date_after(date: str, days: Days) -> str:
    """The date so many days later."""
    try:
        return (_date(date) + datetime.timedelta(days=days)).isoformat()
    except OverflowError as error:
        raise CallError("there is no such date", value=days, remedy="Use fewer days.") from error


@function(example='weekday_of("2024-07-04")', trusted=True)
def weekday_of(date: str) -> str:
    """The day of the week of a date."""
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return names[_date(date).weekday()]


@function(example="is_leap_year(2024)", trusted=True)
def is_leap_year(year: Annotated[int, Field(ge=1, le=9999)]) -> bool:
    """Whether a year has 366 days."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


@function(example='minutes_from("09:30", "11:05")', trusted=True)
def minutes_from(start: str, end: str) -> int:
    """How many minutes pass from one time of day to another."""
    return (_minutes(end) - _minutes(start)) % (24 * 60)


# --- units ----------------------------------------------------------------------------------------


@function(example="celsius_to_fahrenheit(20)", trusted=True)
def celsius_to_fahrenheit(degrees: Amount) -> float:
    """Degrees Celsius in degrees Fahrenheit."""
    return round(degrees * 9 / 5 + 32, 2)


@function(example="miles_to_kilometers(10)", trusted=True)
def miles_to_kilometers(miles: Amount) -> float:
    """Miles in kilometers."""
    return round(miles * 1.609344, 3)


@function(example="pounds_to_kilograms(5)", trusted=True)
def pounds_to_kilograms(pounds: Amount) -> float:
    """Pounds in kilograms."""
    return round(pounds * 0.45359237, 3)


@function(example="clock_of(5025)", trusted=True)
def clock_of(seconds: Annotated[int, Field(ge=0, le=10**12)]) -> str:
    """Seconds as hours:minutes:seconds."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


# --- lists ----------------------------------------------------------------------------------------


@function(example="sort_numbers([5, 2, 9])", trusted=True)
def sort_numbers(numbers: Numbers, descending: bool = False) -> list[float]:
    """A list of numbers by size, the smallest first."""
    return sorted(numbers, reverse=descending)


@function(example="largest_of([5, 2, 9])", trusted=True)
def largest_of(numbers: Numbers) -> float:
    """The largest of several numbers."""
    return max(numbers)


@function(example="median_of([7, 1, 4])", trusted=True)
def median_of(numbers: Numbers) -> float:
    """The number in the middle when several numbers are ordered by size."""
    return statistics.median(numbers)


@function(example='without_repeats(["tea", "milk", "tea"])', trusted=True)
def without_repeats(items: list[str]) -> list[str]:
    """A list with each item once, in the order of the list."""
    return list(dict.fromkeys(items))


@function(example='position_in("milk", ["tea", "milk"])', trusted=True)
def position_in(item: str, items: list[str]) -> int:
    """The place of an item in a list, from 1."""
    if item not in items:
        raise CallError("the list has no such item", value=item)
    return items.index(item) + 1


@function(example='join_with(["red", "green"], " and ")', trusted=True)
def join_with(items: list[str], separator: Short = ", ") -> str:
    """The items of a list as one text, the separator between them."""
    return separator.join(items)


@function(example='item_at(["red", "green", "blue"], 2)', trusted=True)
def item_at(items: list[str], position: int) -> str:
    """The item at a place of a list, from 1."""
    if not 1 <= position <= len(items):
        raise CallError("the list has no such place", value=position)
    return items[position - 1]


DISTRACTORS = (
    count_words, reverse_text, count_letter, initials, longest_word, replace_word, is_palindrome,
    days_between, date_after, weekday_of, is_leap_year, minutes_from,
    celsius_to_fahrenheit, miles_to_kilometers, pounds_to_kilograms, clock_of,
    sort_numbers, largest_of, median_of, without_repeats, position_in, join_with, item_at,
)  # fmt: skip

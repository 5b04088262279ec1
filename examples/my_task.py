"""A task of one's own: the days between two dates."""

from datetime import date, timedelta
from random import Random

from rightcall import Problem, Stop, Task, function


@function(example='days_between("2024-02-27", "2024-03-01")', trusted=True)
def days_between(start: date, end: date) -> int:
    """Count the days from one date to another."""
    return (end - start).days


@function(example="stop(3)", role="flow", trusted=True)
def stop(answer: int) -> Stop:
    """End with the answer."""
    return Stop(str(answer))


class Dates(Task):
    name = "dates"
    instruction = "Find the number of days."
    functions = (days_between, stop)

    def problems(self, split, count=None, seed=0):
        year = {"train": 1990, "validation": 2000, "test": 2010}[split]  # no question in two splits
        for index in range(count or 100):
            random = Random(f"dates/{split}/{seed}/{index}")
            start, days = date(year, 1, 1) + timedelta(random.randrange(3650)), random.randrange(2, 900)
            end = start + timedelta(days)
            question = f"How many days from {start} to {end}?"
            gold = (f'days_between("{start}", "{end}")', f"stop({days})")
            yield Problem(id=f"{split}-{seed}-{index}", question=question, answer=str(days), gold=gold)

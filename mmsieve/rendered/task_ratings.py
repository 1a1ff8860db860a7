"""How useful a right answer to each task is for each capability, 0-5, and what follows from it.

The profiles are set by hand. A sample's rating is the highest of its turns' profiles; answers in
whole sentences add one to `language`; an answer that its picture contradicts leaves no rating
above `WRONG_CAP`, since training on it teaches what is false.
"""

from collections.abc import Iterable

from mmsieve.capabilities import CAPABILITIES

WRONG_CAP = 1

# spatial attribute logical scene finegrained language incontext
# comparative activity causal humanities stem data ocr
_PROFILES = {
    "count":      "3 2 2 3 2 1 0  2 0 0 0 2 1 0",
    "colour":     "2 5 2 2 3 1 0  1 0 0 0 0 0 0",
    "shape":      "2 4 2 2 5 1 0  1 0 0 0 1 0 0",
    "fill":       "2 5 1 2 4 1 0  1 0 0 0 0 0 0",
    "place":      "5 2 2 2 3 1 0  1 0 0 0 0 0 0",
    "box":        "5 2 2 2 3 0 0  1 0 0 0 2 2 0",
    "region":     "4 3 2 2 4 1 0  1 0 0 0 1 2 0",
    "check":      "3 4 3 2 3 1 0  2 0 0 0 0 0 0",
    "choice":     "2 4 3 2 4 1 1  3 0 0 0 0 0 0",
    "brief":      "3 3 1 4 3 2 0  0 0 0 0 0 0 0",
    "detail":     "4 4 2 5 4 4 0  2 0 0 0 0 0 1",
    "compare":    "3 4 3 2 3 3 0  5 0 0 0 0 0 0",
    "same":       "3 4 4 2 3 2 0  4 0 0 0 0 0 0",
    "steps":      "4 3 5 3 3 4 1  3 0 2 0 2 1 0",
    "rhyme":      "3 3 1 3 3 4 2  0 0 0 3 0 0 0",
    "listing":    "4 3 2 4 3 3 2  2 0 0 0 0 3 0",
    "rows":       "3 4 2 3 3 2 2  2 0 0 0 1 5 0",
    "sign":       "2 2 1 2 4 1 0  0 0 0 1 0 1 5",
    "culture":    "2 1 2 3 3 3 0  0 0 1 5 0 0 4",
    "corners":    "2 3 3 1 4 1 0  1 0 0 0 5 0 0",
    "cost":       "2 1 4 2 1 1 0  1 0 1 0 4 2 0",
    "whole":      "3 3 2 5 2 3 0  2 0 0 1 0 0 0",
    "remains":    "4 3 5 3 3 2 0  2 1 3 0 0 0 0",
    "example":    "3 4 3 2 3 1 5  3 0 0 0 0 0 0",
    "moved":      "4 2 2 3 2 2 0  3 5 3 0 0 0 0",
    "why":        "3 2 4 3 2 2 0  3 3 5 0 1 0 0",
    "height":     "2 3 1 1 3 1 0  1 0 0 0 2 5 1",
    "highest":    "2 3 3 2 3 1 0  4 0 0 0 2 4 0",
    "bars":       "2 3 3 1 2 3 0  5 0 0 0 2 4 0",
    "difference": "1 2 5 1 2 3 0  4 0 1 0 5 4 0",
    "chart":      "3 3 1 4 3 4 0  2 0 0 0 1 5 1",
}  # fmt: skip

RATINGS: dict[str, dict[str, int]] = {
    task: dict(zip(CAPABILITIES, map(int, digits.split()), strict=True))
    for task, digits in _PROFILES.items()
}
"""Task -> capability -> rating of a right answer."""


def rate(tasks: Iterable[str], *, sentences: bool, wrong: bool) -> dict[str, int]:
    """The ratings of a sample from its turns' tasks."""
    profiles = [RATINGS[task] for task in tasks]
    rated = {name: max(profile[name] for profile in profiles) for name in CAPABILITIES}
    rated["language"] = min(5, rated["language"] + sentences)
    return {name: min(value, WRONG_CAP) for name, value in rated.items()} if wrong else rated

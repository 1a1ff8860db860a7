"""Tasks over bar charts."""

import numpy as np

from mmsieve.rendered.claims import NOT
from mmsieve.rendered.exchanges import (
    PHRASE,
    SHORT,
    STEPS,
    Exchange,
    Pieces,
    Scenes,
    exchange,
    phrase_or_sentence,
)
from mmsieve.rendered.scenes import Chart, Fact, pick
from mmsieve.rendered.words import NUMBERS, Piece, plain, sentence, tell


def height(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The height of a bar."""
    chart = _chart(scenes)
    bar = _bars(chart, 1, rng)[0]
    question = [*plain(pick(rng, ("how high is", "what is the height of"))), *_bar(bar)]
    return phrase_or_sentence(question, [_height(chart, bar)], [*_bar(bar), Piece("is")], rng)


def highest(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Which bar stands out."""
    chart, kind = _chart(scenes), pick(rng, ("highest", "lowest"))
    best = (max if kind == "highest" else min)(chart.heights)
    colour = chart.colours[chart.heights.index(best)]
    question = plain(f"which bar is the {kind}")
    answer = [Piece(colour, Fact("chart", kind, colour))]
    return phrase_or_sentence(question, answer, plain(f"the {kind} bar is"), rng)


def bars(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Two bars side by side."""
    chart = _chart(scenes)
    one, other = _bars(chart, 2, rng)
    question = [*plain("can you compare"), *_bar(one), Piece("and"), *_bar(other)]
    answer = [*_stands(chart, one), Piece("and"), *_stands(chart, other)]
    heights = (_height(chart, one), _height(chart, other))
    return exchange(question, sentence(answer), "comparison", asked=heights)


def difference(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """How far apart two bars are, step by step."""
    chart = _chart(scenes)
    one, other = _bars(chart, 2, rng)
    question = [*plain("how far apart are"), *_bar(one), Piece("and"), *_bar(other)]
    gap = abs(_value(chart, one) - _value(chart, other))
    answer = sentence(_stands(chart, one)) + sentence(_stands(chart, other))
    answer += sentence(
        plain(f"so they are {NUMBERS[gap]} apart" if gap else "so they are the same")
    )
    question += plain(", step by step")
    heights = (_height(chart, one), _height(chart, other))
    return exchange(question, answer, STEPS, asked=heights)


def describe(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The full telling."""
    question = plain(
        pick(rng, ("can you describe the chart in detail", "what does the chart show"))
    )
    return exchange(question, tell(scenes[0], rng), "detailed description")


def taller(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Whether one bar is above another."""
    chart = _chart(scenes)
    one, other = _bars(chart, 2, rng)
    question = [*plain("is"), *_bar(one), *plain("above"), *_bar(other)]
    above = _value(chart, one) > _value(chart, other)
    claim = Fact(one, "above" if above else NOT + "above", other)
    return exchange(question, [Piece("yes" if above else "no", claim)], "yes/no")


def bar_choice(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The height of a bar, out of three."""
    chart = _chart(scenes)
    bar = _bars(chart, 1, rng)[0]
    value = _value(chart, bar)
    others = [v for v in range(1, 10) if v != value]
    options = [value, *(others[int(i)] for i in rng.permutation(8)[:2])]
    options = [options[int(i)] for i in rng.permutation(3)]
    listed = " ".join(f"{letter}. {NUMBERS[v]}" for letter, v in zip("ABC", options, strict=True))
    question = [*plain("how high is"), *_bar(bar), *plain(f": {listed}")]
    answer = [*plain("ABC"[options.index(value)] + "."), _height(chart, bar)]
    return exchange(question, answer, "multi-choice")


def bar_count(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """How many bars there are."""
    count = len(_chart(scenes).colours)
    number = Piece(NUMBERS[count], Fact("chart", "count", str(count)))
    question = plain("how many bars are there")
    if rng.random() < 0.4:
        return exchange(question, [number], PHRASE)
    return exchange(question, sentence([*plain("there are"), number, Piece("bars")]), SHORT)


def _chart(scenes: Scenes) -> Chart:
    chart = scenes[0].chart
    assert chart is not None
    return chart


def _bars(chart: Chart, count: int, rng: np.random.Generator) -> list[str]:
    return [chart.colours[int(i)] for i in rng.permutation(len(chart.colours))[:count]]


def _value(chart: Chart, colour: str) -> int:
    return chart.heights[chart.colours.index(colour)]


def _height(chart: Chart, colour: str) -> Piece:
    value = _value(chart, colour)
    return Piece(NUMBERS[value], Fact(colour, "height", str(value)))


def _bar(colour: str) -> Pieces:
    return [Piece("the"), Piece(colour, Fact(colour, "place", colour)), Piece("bar")]


def _stands(chart: Chart, colour: str) -> Pieces:
    return [*_bar(colour), Piece("is"), _height(chart, colour)]

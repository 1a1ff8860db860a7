"""Question templates over bar charts and over pairs of pictures."""

from dataclasses import replace

import numpy as np

from mmsieve.synthetic.edits import NOT, alter
from mmsieve.synthetic.object_templates import (
    PHRASE,
    SHORT,
    STEPS,
    Exchange,
    Pieces,
    Scenes,
    at,
    exchange,
    on_second,
    one_of,
    phrase_or_sentence,
    said,
    shapes,
    the,
    told_apart,
)
from mmsieve.synthetic.scenes import WORLDS, Chart, Fact, Scene, pick_one
from mmsieve.synthetic.texts import NUMBERS, Piece, plain, sentence, tell

# Tasks over bar charts


def height(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The height of a bar."""
    chart = _chart(scenes)
    bar = _bars(chart, 1, rng)[0]
    question = [*plain(pick_one(rng, ("how high is", "what is the height of"))), *_bar(bar)]
    return phrase_or_sentence(question, [_height(chart, bar)], [*_bar(bar), Piece("is")], rng)


def highest(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Which bar stands out."""
    chart, kind = _chart(scenes), pick_one(rng, ("highest", "lowest"))
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
        pick_one(rng, ("can you describe the chart in detail", "what does the chart show"))
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


# Tasks over two pictures: an example to follow, and what changed between before and after


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene after an object has moved or changed its colour."""
    return _change(scene, pick_one(rng, ("place", "colour")), rng)


def shifted(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene after an object has moved."""
    return _change(scene, "place", rng)


def _change(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    index = scene.things.index(one_of(told_apart(scene), rng))
    return alter(scene, index, kind, WORLDS[scene.family], rng)


def example(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What is asked of the first picture and answered, then asked of the second."""
    kind = pick_one(rng, ("colour", "shape"))
    shown = one_of(shapes(scenes[0]), rng)
    thing = one_of(shapes(scenes[1]), rng)
    subject, then = at(shown), at(thing)
    if kind == "colour":
        subject, then = [*subject, *the(shown)], [*then, *the(thing)]
    then = on_second(then)
    question = [*plain("first picture,"), *subject, Piece(":"), said(shown, kind)]
    question += [*plain("; second picture,"), *then]
    truth = on_second([said(thing, kind)])
    if rng.random() < 0.5:
        return exchange(question, truth, PHRASE)
    answer = [*then, Piece(":"), *truth]
    return exchange(question, answer, PHRASE, asked=tuple(truth))


def moved(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What happened between the two pictures."""
    old = next(thing for thing in scenes[0].things if thing not in scenes[1].things)
    new = next(thing for thing in scenes[1].things if thing not in scenes[0].things)
    question = plain(pick_one(rng, ("what happened between the pictures", "what is going on here")))
    if old.cell == new.cell:
        turned = on_second([said(new, "colour")])
        after = replace(at(old)[-1], text="turned", picture=1)  # it has to be there to turn
        answer = [*at(old), *the(old), after, Piece("from"), said(old, "colour")]
        answer += [Piece("to"), *turned]
        return exchange(question, sentence(answer), SHORT, asked=(said(old, "colour"), *turned))
    then = on_second(at(new))
    answer = [
        *the(old, "colour"),
        *plain("moved from the"),
        at(old)[-1],
        *plain("to the"),
        then[-1],
    ]
    return exchange(question, sentence(answer), SHORT, asked=(at(old)[-1], then[-1]))


def why(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Why a place is empty afterwards."""
    old = next(thing for thing in scenes[0].things if thing not in scenes[1].things)
    new = next(thing for thing in scenes[1].things if thing not in scenes[0].things)
    question = plain(f"why is the {old.place} empty in the second picture")
    then = on_second(at(new))
    answer = [*plain("because"), *the(old, "colour"), *plain("moved to the"), then[-1]]
    if rng.random() < 0.4:
        return exchange(question, answer, PHRASE, asked=(then[-1],))
    return exchange(question, sentence(answer), SHORT, asked=(then[-1],))

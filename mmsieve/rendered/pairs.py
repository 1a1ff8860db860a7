"""Tasks over two pictures: an example to follow, and what changed between before and after."""

from dataclasses import replace

import numpy as np

from mmsieve.rendered.edits import alter
from mmsieve.rendered.exchanges import (
    PHRASE,
    SHORT,
    Exchange,
    Scenes,
    at,
    exchange,
    on_second,
    one_of,
    said,
    shapes,
    the,
    told_apart,
)
from mmsieve.rendered.scenes import WORLDS, Scene, pick
from mmsieve.rendered.words import Piece, plain, sentence


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene after an object has moved or changed its colour."""
    return _change(scene, pick(rng, ("place", "colour")), rng)


def shifted(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene after an object has moved."""
    return _change(scene, "place", rng)


def _change(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    index = scene.things.index(one_of(told_apart(scene), rng))
    return alter(scene, index, kind, WORLDS[scene.family], rng)


def example(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What is asked of the first picture and answered, then asked of the second."""
    kind = pick(rng, ("colour", "shape"))
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
    question = plain(pick(rng, ("what happened between the pictures", "what is going on here")))
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

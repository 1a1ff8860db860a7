"""Tasks that tell, compare or reason over several objects."""

import numpy as np

from mmsieve.rendered.claims import common_fill
from mmsieve.rendered.exchanges import (
    FORM,
    PHRASE,
    SHORT,
    STEPS,
    Exchange,
    Pieces,
    Scenes,
    at,
    exchange,
    how_many,
    join,
    one_of,
    said,
    shapes,
    the,
)
from mmsieve.rendered.scenes import SIGN, Fact, Thing, pick
from mmsieve.rendered.words import NUMBERS, Piece, clause, noun_phrase, plain, sentence, tell


def brief(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """One sentence about one object."""
    thing = one_of(scenes[0].things, rng)
    question = plain(pick(rng, ("what do you see, in short", "name one object and its place")))
    return exchange(question, sentence(clause(thing, rng)), SHORT)


def detail(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The full telling."""
    question = plain(
        pick(rng, ("can you describe the picture in detail", "what is in the picture, in detail"))
    )
    return exchange(question, tell(scenes[0], rng), "detailed description")


def whole(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What kind of picture it is."""
    scene = scenes[0]
    count, common = len(scene.things), common_fill(scene)
    number = Piece(NUMBERS[count], Fact("scene", "count", str(count)))
    words = "some solid and some striped" if common == "mixed" else f"all {common}"
    fills = [Piece(word, Fact("scene", "fills", common)) for word in words.split()]
    question = plain(pick(rng, ("what kind of picture is this", "how is the whole picture")))
    answer = [*plain("a picture of"), number, *plain("objects:"), *fills]
    return exchange(question, sentence(answer), SHORT, asked=(number, fills[0]))


def compare(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The colours or fills of two objects."""
    one, other, kind = _pair(scenes, rng)
    question = [*plain(f"can you compare the {kind} of"), *the(one), *at(one), Piece("and")]
    question += [*the(other), *at(other)]
    halves = [[*at(thing), *the(thing), Piece("is"), said(thing, kind)] for thing in (one, other)]
    alike = "the same" if getattr(one, kind) == getattr(other, kind) else "different"
    answer = [*join(halves, ","), *plain(f": {alike}")]
    asked = (said(one, kind), said(other, kind))
    return exchange(question, sentence(answer), "comparison", asked=asked)


def same(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Whether two objects share a colour or a fill."""
    one, other, kind = _pair(scenes, rng)
    alike = getattr(one, kind) == getattr(other, kind)
    question = [*plain(f"is the {kind} the same"), *at(one), Piece("and"), *at(other)]
    halves = [[*at(thing), said(thing, kind)] for thing in (one, other)]
    answer = [*plain("yes," if alike else "no,"), *join(halves, "and")]
    asked = (said(one, kind), said(other, kind))
    return exchange(question, answer, "yes/no", "comparison", asked=asked)


def _pair(scenes: Scenes, rng: np.random.Generator) -> tuple[Thing, Thing, str]:
    things = shapes(scenes[0])
    first, second = (int(i) for i in rng.permutation(len(things))[:2])
    return things[first], things[second], pick(rng, ("colour", "fill"))


def steps(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The objects one by one, then how many are of a kind."""
    scene = scenes[0]
    thing, kind = one_of(shapes(scene), rng), pick(rng, ("colour", "fill"))
    value = getattr(thing, kind)
    question = plain(f"how many objects are {value}, step by step")
    answer: Pieces = []
    for seen in scene.things:
        look = [said(seen, kind)] if seen.shape != SIGN or kind == "colour" else []
        answer += sentence([*at(seen), *plain("is a"), *look, said(seen, "shape")])
    answer += sentence([*plain(f"so the number of {value} objects is"), how_many(scene, value)])
    return exchange(question, answer, STEPS)


def remains(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What is left when one object is taken away."""
    things = scenes[0].things
    gone = one_of(things, rng)
    question = [*plain("what remains without"), *the(gone), *at(gone)]
    left = [[*at(thing), *noun_phrase(thing, rng)] for thing in things if thing != gone]
    if rng.random() < 0.4:
        return exchange(question, join(left, "and"), PHRASE)
    answer: Pieces = plain("without it,")
    return exchange(question, sentence([*answer, *join(left, "and")]), SHORT)


def rhyme(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """One object in rhyme."""
    thing = one_of(scenes[0].things, rng)
    question = [*plain("what is"), *at(thing), *plain(", in rhyme")]
    first, last = (
        ("what a day", "hip hip hooray")
        if rng.random() < 0.5
        else ("what a sight", "so fine and bright")
    )
    answer = [*plain(f"{first}:"), *at(thing), *plain("there is"), *noun_phrase(thing, rng)]
    return exchange(question, sentence([*answer, *plain(f", {last}")]), FORM)


def listing(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The objects as a numbered list."""
    question = plain(pick(rng, ("what is there, as a list", "can you list the objects")))
    answer: Pieces = []
    for index, thing in enumerate(scenes[0].things, 1):
        answer += [*plain(f"{index}."), at(thing)[-1], Piece(":"), *noun_phrase(thing, rng)]
    return exchange(question, answer, FORM)


def rows(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The objects as rows of a table."""
    question = plain(
        pick(rng, ("what is there, as a table", "can you make a table of the objects"))
    )
    answer: Pieces = plain("| place | colour | shape |")
    for thing in scenes[0].things:
        answer += [at(thing)[-1], Piece("|"), said(thing, "colour"), Piece("|")]
        answer += [said(thing, "shape"), Piece("|")]
    return exchange(question, answer, FORM)

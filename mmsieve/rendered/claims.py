"""What answers claim beyond the plain facts of a scene, and pictures that contradict a claim.

A text is written first, over its own scene. Whether it is right is decided afterwards, by the
picture that is shown with it: that scene, or one in which a claim of the text is false. So the
words of right and wrong samples have the same distribution, whatever is asked.
"""

from dataclasses import replace

import numpy as np

from mmsieve.rendered.edits import alter, change_numbers, editable, newcomer, stranger, with_things
from mmsieve.rendered.scenes import FILLS, SIGN, WORLDS, Fact, Scene, Thing, World

CORNERS = {"circle": 0, "ring": 0, "square": 4, "triangle": 3, "star": 5, "cross": 12, "diamond": 4}
NOT = "not "
"""Before an attribute: of `subject`, the attribute is anything but `value`."""
_KINDS = ("colour", "shape", "fill")


def truths(scene: Scene) -> frozenset[Fact]:
    """All facts of a scene (objects or a chart) and what follows from them."""
    if scene.chart is not None:
        return scene.facts() | _chart_truths(scene)
    world = WORLDS[scene.family]
    found: list[Fact] = []
    for kind in _KINDS:
        values = [getattr(thing, kind) for thing in scene.things]
        found += [Fact("scene", value, str(values.count(value))) for value in world.values(kind)]
    found.append(Fact("scene", "fills", common_fill(scene)))
    for thing in scene.things:
        found += _denials(thing, world)
        if thing.word:
            found.append(Fact("scene", "word", thing.word))
        if thing.shape != SIGN:
            found.append(Fact(thing.place, "corners", str(CORNERS[thing.shape])))
    return scene.facts() | frozenset(found)


def common_fill(scene: Scene) -> str:
    """The fill that all objects share (signs have none), or `mixed`."""
    fills = {thing.fill for thing in scene.things if thing.fill}
    return fills.pop() if len(fills) == 1 else "mixed"


def _denials(thing: Thing, world: World) -> list[Fact]:
    said = thing.attributes()
    return [
        Fact(thing.place, NOT + kind, value)
        for kind in _KINDS
        if kind in said
        for value in world.values(kind)
        if value != said[kind]
    ]


def _chart_truths(scene: Scene) -> frozenset[Fact]:
    chart = scene.chart
    assert chart is not None
    bars = list(zip(chart.colours, chart.heights, strict=True))
    found: list[Fact] = []
    for pick, word in ((max, "highest"), (min, "lowest")):
        best = pick(chart.heights)
        found += [Fact("chart", word, colour) for colour, height in bars if height == best]
    for colour, height in bars:
        found += [Fact(colour, "above", other) for other, low in bars if height > low]
        found += [Fact(colour, NOT + "above", other) for other, low in bars if height <= low]
    return frozenset(found)


def contradict(
    scene: Scene, claims: tuple[Fact, ...], stranger_share: float, rng: np.random.Generator
) -> Scene:
    """A picture in which claims that hold for this scene are false, but for some of many."""
    denial = any(claim.attribute.startswith(NOT) for claim in claims)
    if rng.random() < stranger_share and not denial:
        scene = stranger(scene, rng)
    wanted = max(1, (len(claims) + 1) // 2)
    for choice in rng.permutation(len(claims))[:wanted]:
        scene = falsify(scene, claims[int(choice)], rng)
    return scene


def falsify(scene: Scene, claim: Fact, rng: np.random.Generator) -> Scene:
    """Change what the claim is about until the claim is false."""
    while claim in truths(scene):
        scene = _step(scene, claim, rng)
    return scene


def _step(scene: Scene, claim: Fact, rng: np.random.Generator) -> Scene:
    if scene.chart is not None:
        whole = claim.attribute in ("place", "count")
        return stranger(scene, rng) if whole else change_numbers(scene, rng, 1)
    world = WORLDS[scene.family]
    if claim.attribute == "count":
        return _recount(scene, world, rng)
    kind = _kind(claim)
    indices = [i for i, thing in enumerate(scene.things) if claim.subject in ("scene", thing.place)]
    index = indices[int(rng.integers(len(indices)))]
    thing = scene.things[index]
    if kind.startswith(NOT):
        changed = replace(thing, **{kind.removeprefix(NOT): claim.value})  # type: ignore[arg-type]
        things = (*scene.things[:index], changed, *scene.things[index + 1 :])
        return with_things(scene, things)
    if kind not in editable(thing):
        if claim.subject == "scene":
            return scene
        kind = "place"
    return alter(scene, index, kind, world, rng)


def _kind(claim: Fact) -> str:
    """The attribute of an object that decides about the claim."""
    if claim.attribute == "corners":
        return "shape"
    if claim.attribute == "fills" or claim.attribute in FILLS:
        return "fill"
    if claim.subject == "scene" and claim.attribute != "word":
        return "colour" if claim.attribute in WORLDS["many"].colours else "shape"
    return claim.attribute


def _recount(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    """One object more or one less."""
    more = len(scene.things) < max(world.counts)
    if more and (len(scene.things) <= min(world.counts) or rng.random() < 0.5):
        return with_things(scene, (*scene.things, newcomer(scene, world, rng)))
    index = int(rng.integers(len(scene.things)))
    return with_things(scene, scene.things[:index] + scene.things[index + 1 :])

"""Instruction samples over rendered scenes: questions, answers, known ratings and styles.

The profiles are set by hand. A sample's rating is the highest of its turns' profiles; answers in
whole sentences add one to `language`; an answer that its picture contradicts leaves no rating
above `WRONG_CAP`, since training on it teaches what is false.

The text of a sample is written first, over scenes of its own, and is right of them. Then the
pictures are chosen: in `wrong_share` of the samples one of them contradicts an answer. All follows
from (seed, index, family), so any sample can be made again alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.sample import Sample, Turn
from mmsieve.synthetic import chart_templates, object_templates
from mmsieve.synthetic.edits import contradict, stranger, truths
from mmsieve.synthetic.object_templates import Exchange, Scenes, shapes, signs, told_apart
from mmsieve.synthetic.scenes import SIGN, WORLDS, Fact, Scene, Thing, pick_one, sample_scene
from mmsieve.synthetic.texts import Marked, mark_facts

# How useful a right answer to each task is for each capability, 0-5, and what follows from it

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


# The tasks: who writes each, over which scenes, how often, and how it is rated


def _anything(scene: Scene) -> bool:
    return True


def _pointable(scene: Scene) -> bool:
    return bool(told_apart(scene))


def _signed(scene: Scene) -> bool:
    return bool(signs(scene))


def _two_shapes(scene: Scene) -> bool:
    return len(shapes(scene)) > 1


def _uneven(scene: Scene) -> bool:
    return scene.chart is not None and len(set(scene.chart.heights)) == len(scene.chart.heights)


def _as_it_is(scene: Scene, rng: np.random.Generator) -> Scene:
    return scene


def _with_sign(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, one object of it made a sign unless there is one."""
    if signs(scene):
        return scene
    index = int(rng.integers(len(scene.things)))
    old = scene.things[index]
    sign = Thing(old.cell, SIGN, old.colour, word=pick_one(rng, WORLDS[scene.family].words))
    return replace(scene, things=(*scene.things[:index], sign, *scene.things[index + 1 :]))


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question.

    `profile` names its ratings, `fits` says over which scene it can be asked. Where a sample
    starts with it, `prepare` may change the scene first, and `second` makes a second picture.
    """

    write: Callable[[Scenes, np.random.Generator], Exchange]
    profile: str
    share: float = 1.0
    fits: Callable[[Scene], bool] = _anything
    prepare: Callable[[Scene, np.random.Generator], Scene] = _as_it_is
    second: Callable[[Scene, np.random.Generator], Scene] | None = None

    def stage(self, family: str, rng: np.random.Generator) -> Scenes:
        """The pictures of a sample that starts with this task."""
        while True:
            scene = self.prepare(sample_scene(family, int(rng.integers(2**62))), rng)
            if self.fits(scene):
                return (scene,) if self.second is None else (scene, self.second(scene, rng))


TASKS: dict[str, Task] = {
    "count": Task(object_templates.count, "count", 1.2),
    "colour": Task(object_templates.colour, "colour", 1.2),
    "shape": Task(object_templates.shape, "shape"),
    "fill": Task(object_templates.fill, "fill"),
    "place": Task(object_templates.place, "place", 1.2, _pointable),
    "box": Task(object_templates.box_of, "box", 1.0, _pointable),
    "region": Task(object_templates.region, "region", 0.6),
    "check": Task(object_templates.check, "check", 1.4),
    "choice": Task(object_templates.choice, "choice", 1.4),
    "brief": Task(object_templates.brief, "brief"),
    "detail": Task(object_templates.detail, "detail", 1.2),
    "compare": Task(object_templates.compare, "compare", 1.2, _two_shapes),
    "same": Task(object_templates.same, "same", 1.0, _two_shapes),
    "steps": Task(object_templates.steps, "steps", 1.4),
    "rhyme": Task(object_templates.rhyme, "rhyme", 0.8),
    "listing": Task(object_templates.listing, "listing", 0.6),
    "rows": Task(object_templates.rows, "rows", 0.8),
    "sign": Task(object_templates.sign, "sign", 1.0, _signed, _with_sign),
    "culture": Task(object_templates.culture, "culture", 1.0, _signed, _with_sign),
    "corners": Task(object_templates.corners, "corners"),
    "cost": Task(object_templates.cost, "cost", 0.7),
    "whole": Task(object_templates.whole, "whole"),
    "remains": Task(object_templates.remains, "remains"),
    "example": Task(chart_templates.example, "example", 1.2, second=stranger),
    "moved": Task(chart_templates.moved, "moved", 1.0, _pointable, second=chart_templates.changed),
    "why": Task(chart_templates.why, "why", 0.8, _pointable, second=chart_templates.shifted),
}
"""Over scenes of objects, core and many."""

CHART_TASKS: dict[str, Task] = {
    "height": Task(chart_templates.height, "height", 2.0),
    "highest": Task(chart_templates.highest, "highest", 1.0, _uneven),
    "bars": Task(chart_templates.bars, "bars"),
    "difference": Task(chart_templates.difference, "difference"),
    "chart": Task(chart_templates.describe, "chart"),
    "taller": Task(chart_templates.taller, "highest", 1.0, _uneven),
    "bar_choice": Task(chart_templates.bar_choice, "height"),
    "bar_count": Task(chart_templates.bar_count, "height", 0.5),
}

FAMILIES: dict[str, dict[str, Task]] = {"core": TASKS, "many": TASKS, "chart": CHART_TASKS}
"""Family of scenes -> the tasks over it."""


def share_above(capability: str, floor: int, tasks: dict[str, Task] = TASKS) -> float:
    """The share of single right turns that are rated above `floor`."""
    total = sum(task.share for task in tasks.values())
    above = (t.share for t in tasks.values() if RATINGS[t.profile][capability] > floor)
    return sum(above) / total


NEEDS_PICTURE: tuple[str, ...] = tuple(name for name in CAPABILITIES if share_above(name, 1) >= 0.7)
"""Capabilities that most right answers are good for: what remains of their ratings depends on
whether the picture agrees, so nobody rates them well without looking. More turns only raise this.
"""


# Instruction samples over rendered scenes: questions, answers, known ratings and styles

WRONG_SHARE = 0.47
STRANGER_SHARE = 0.5
"""Of the wrong samples, how many are shown with a picture that shares nothing with their scene."""
IMAGE_MARK = "<image>\n"
_TURNS = (0.6, 0.92, 1.0)
"""Cumulative shares of samples with one, two and three turns, of those with one picture."""
_INSTRUCTIONS = 3


@dataclass(frozen=True, slots=True)
class RenderedTurn:
    """A question and its answer, with the spans of words that the pictures confirm or deny."""

    task: str
    question: Marked
    answer: Marked


@dataclass(frozen=True, slots=True)
class InstructionSample:
    """A conversation about one or two pictures, and all that is known about it."""

    key: str
    scenes: Scenes
    """The pictures as they are shown."""
    turns: tuple[RenderedTurn, ...]
    """The first question starts with an `<image>` line per picture."""
    ratings: Mapping[str, int]
    """Capability -> 0-5."""
    styles: tuple[str, ...]
    """In the order of STYLES."""
    wrong: tuple[int, ...]
    """Turns that the pictures contradict."""

    @property
    def source(self) -> str:
        """The sub-dataset: all samples that start with the same task."""
        return f"rendered_{self.turns[0].task}"

    def sample(self, draw: Callable[[Scene], bytes], idx: int | None = None) -> Sample:
        """The sample that a rater reads; `draw` encodes a scene's picture."""
        turns = tuple(
            turn
            for said in self.turns
            for turn in (Turn("user", said.question.text), Turn("assistant", said.answer.text))
        )
        metadata: dict[str, Any] = {"id": self.key, "image_source": self.source}
        metadata |= {} if idx is None else {"idx": idx}
        images = [draw(scene) for scene in self.scenes]
        return Sample.instruction(images, turns, self.key, metadata)

    def item(self, images: Sequence[str], idx: int) -> dict[str, Any]:
        """The LLaVA item; `images` are the paths of its pictures, in order."""
        if len(images) != len(self.scenes):
            raise ValueError(f"{len(images)} paths for {len(self.scenes)} pictures")
        conversations = [
            {"from": role, "value": text}
            for turn in self.turns
            for role, text in (("human", turn.question.text), ("gpt", turn.answer.text))
        ]
        return {
            "id": self.key,
            "image": images[0] if len(images) == 1 else list(images),
            "conversations": conversations,
            "idx": idx,
            "image_source": self.source,
        }


def instruction(
    seed: int, index: int, family: str = "core", wrong_share: float = WRONG_SHARE
) -> InstructionSample:
    """The sample of a seed and an index over scenes of a family (a name of FAMILIES).

    Its texts are the same whatever the share of wrong ones.
    """
    rng = np.random.default_rng((seed, _INSTRUCTIONS, index))
    scenes, tasks, exchanges = _converse(family, rng)
    pictures = scenes
    if rng.random() < wrong_share:
        pictures = _contradicting(scenes, exchanges, rng)
    return _finish(f"i{index:08d}", pictures, tasks, exchanges, family)


def _converse(family: str, rng: np.random.Generator) -> tuple[Scenes, list[str], list[Exchange]]:
    """Scenes, the tasks over them, and what is asked and answered."""
    known = FAMILIES[family]
    tasks = [_draw(known, rng)]
    scenes = known[tasks[0]].stage(family, rng)
    more = int(np.searchsorted(_TURNS, rng.random())) if len(scenes) == 1 else 0
    for _ in range(more):
        left = {n: t for n, t in known.items() if n not in tasks and _can_follow(t, scenes)}
        tasks.append(_draw(left, rng))
    return scenes, tasks, [known[name].write(scenes, rng) for name in tasks]


def _can_follow(task: Task, scenes: Scenes) -> bool:
    return task.second is None and task.fits(scenes[0])


def _draw(tasks: Mapping[str, Task], rng: np.random.Generator) -> str:
    """The name of a task, by its share."""
    sums = np.cumsum([task.share for task in tasks.values()])
    return list(tasks)[int(np.searchsorted(sums, rng.random() * sums[-1]))]


def _contradicting(
    scenes: Scenes, exchanges: Sequence[Exchange], rng: np.random.Generator
) -> Scenes:
    """Pictures of which one makes an answer false."""
    turn = exchanges[int(rng.integers(len(exchanges)))]
    picture = turn.asked[int(rng.integers(len(turn.asked)))].picture
    claims = tuple(piece.fact for piece in turn.asked if piece.fact and piece.picture == picture)
    other = contradict(scenes[picture], claims, STRANGER_SHARE, rng)
    return (*scenes[:picture], other, *scenes[picture + 1 :])


def _finish(
    key: str, pictures: Scenes, tasks: Sequence[str], exchanges: Sequence[Exchange], family: str
) -> InstructionSample:
    """Check each answer against the pictures that are shown, and rate the whole."""
    known = [truths(picture) for picture in pictures]
    wrong = tuple(i for i, turn in enumerate(exchanges) if not _holds(turn, known))
    styles = {style for turn in exchanges for style in turn.styles}
    sentences = any(turn.answer[-1].text.endswith(".") for turn in exchanges)
    profiles = [FAMILIES[family][task].profile for task in tasks]
    turns = []
    for index, (task, turn) in enumerate(zip(tasks, exchanges, strict=True)):
        marks = IMAGE_MARK * len(pictures) if index == 0 else ""
        question = _behind(marks, mark_facts(turn.question, known))
        turns.append(RenderedTurn(task, question, mark_facts(turn.answer, known)))
    return InstructionSample(
        key,
        pictures,
        tuple(turns),
        rate(profiles, sentences=sentences, wrong=bool(wrong)),
        tuple(style for style in STYLES if style in styles),
        wrong,
    )


def _holds(turn: Exchange, known: Sequence[frozenset[Fact]]) -> bool:
    said = (*turn.question, *turn.answer)
    return all(piece.fact is None or piece.fact in known[piece.picture] for piece in said)


def _behind(head: str, marked: Marked) -> Marked:
    """The text with something in front of it, its spans where they belong."""
    right, wrong = (
        tuple((start + len(head), end + len(head)) for start, end in spans)
        for spans in (marked.right, marked.wrong)
    )
    return Marked(head + marked.text, right, wrong)

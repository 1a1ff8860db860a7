"""Instruction samples over synthetic scenes, with known ratings and styles.

A question template has a rating per capability, set by hand: how useful its question with a right
answer is. A sample's rating is the highest of its turns'; answers in whole sentences add one to
`language`; an answer that its picture contradicts leaves no rating above `WRONG_CAP`, since
training on it teaches what is false.

The text of a sample is written first, over scenes of its own, and is right of them. Then the
pictures are chosen: in `wrong_share` of the samples one of them contradicts an answer. All follows
from (seed, index, family), so any sample can be made again alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.sample import Sample, Turn
from mmsieve.synthetic import questions
from mmsieve.synthetic.questions import QuestionAnswer, shapes, signs, unambiguous
from mmsieve.synthetic.scenes import (
    SIGN,
    WORLDS,
    Fact,
    Scene,
    Scenes,
    Thing,
    alter,
    contradict,
    entailed_facts,
    pick_one,
    replace_thing,
    sample_scene,
    stranger,
)
from mmsieve.synthetic.texts import MarkedText, Word, mark

WRONG_CAP = 1
WRONG_SHARE = 0.47
STRANGER_SHARE = 0.5
"""Of the wrong samples, how many are shown with a picture that shares nothing with their scene."""
IMAGE_MARK = "<image>\n"
_TURNS = (0.6, 0.92, 1.0)
"""Cumulative shares of samples with one, two and three turns, of those with one picture."""
_INSTRUCTIONS = 3
"""Keeps the random numbers of these samples apart from those of captions and documents."""


def _two_shapes(scene: Scene) -> bool:
    return len(shapes(scene)) > 1


def _uneven(scene: Scene) -> bool:
    return scene.chart is not None and len(set(scene.chart.heights)) == len(scene.chart.heights)


def _with_sign(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, one object of it made a sign unless there is one."""
    if signs(scene):
        return scene
    index = int(rng.integers(len(scene.things)))
    old, word = scene.things[index], pick_one(rng, WORLDS[scene.family].words)
    return replace_thing(scene, index, Thing(old.cell, SIGN, old.colour, word=word))


def _changed(scene: Scene, rng: np.random.Generator, kinds: Sequence[str]) -> Scene:
    """The scene after an object has moved, or changed its colour."""
    kind = pick_one(rng, kinds)
    index = scene.things.index(pick_one(rng, unambiguous(scene)))
    return alter(scene, index, kind, WORLDS[scene.family], rng)


@dataclass(frozen=True, slots=True)
class QuestionTemplate:
    """A kind of question: how it is rated, who writes it, how often, over which scenes.

    It can be asked where what it `needs` of a scene is there. Where a sample starts with it,
    `prepare` may change the scene first, and `second` makes a second picture.
    """

    digits: str
    """Its ratings, in the order of CAPABILITIES."""
    write: questions.Writer
    share: float = 1.0
    needs: Callable[[Scene], object] = lambda scene: True
    prepare: Callable[[Scene, np.random.Generator], Scene] = lambda scene, rng: scene
    second: Callable[[Scene, np.random.Generator], Scene] | None = None

    @property
    def ratings(self) -> dict[str, int]:
        """Capability -> rating of a right answer, 0-5."""
        return dict(zip(CAPABILITIES, map(int, self.digits.replace(" ", "")), strict=True))

    def sample_scenes(self, family: str, rng: np.random.Generator) -> Scenes:
        """The pictures of a sample that starts with this template."""
        while True:
            scene = self.prepare(sample_scene(family, int(rng.integers(2**62))), rng)
            if self.needs(scene):
                return (scene,) if self.second is None else (scene, self.second(scene, rng))

    def can_follow(self, scenes: Scenes) -> bool:
        """Whether it can be asked later in a conversation about these pictures."""
        return self.second is None and bool(self.needs(scenes[0]))


# The digits: spatial attribute logical scene finegrained language incontext,
# comparative activity causal humanities stem data ocr.
_OBJECTS = {
    "count":   QuestionTemplate("3223210 2000210", questions.count, 1.2),
    "colour":  QuestionTemplate("2522310 1000000", questions.colour, 1.2),
    "shape":   QuestionTemplate("2422510 1000100", questions.shape),
    "fill":    QuestionTemplate("2512410 1000000", questions.fill),
    "place":   QuestionTemplate("5222310 1000000", questions.place, 1.2, unambiguous),
    "box":     QuestionTemplate("5222300 1000220", questions.box, 1.0, unambiguous),
    "region":  QuestionTemplate("4322410 1000120", questions.region, 0.6),
    "check":   QuestionTemplate("3432310 2000000", questions.check, 1.4),
    "choice":  QuestionTemplate("2432411 3000000", questions.choice, 1.4),
    "brief":   QuestionTemplate("3314320 0000000", questions.brief),
    "detail":  QuestionTemplate("4425440 2000001", questions.detail, 1.2),
    "compare": QuestionTemplate("3432330 5000000", questions.compare, 1.2, _two_shapes),
    "same":    QuestionTemplate("3442320 4000000", questions.same, 1.0, _two_shapes),
    "steps":   QuestionTemplate("4353341 3020210", questions.steps, 1.4),
    "rhyme":   QuestionTemplate("3313342 0003000", questions.rhyme, 0.8),
    "listing": QuestionTemplate("4324332 2000030", questions.listing, 0.6),
    "rows":    QuestionTemplate("3423322 2000150", questions.rows, 0.8),
    "sign":    QuestionTemplate("2212410 0001015", questions.sign, 1.0, signs, _with_sign),
    "culture": QuestionTemplate("2123330 0015004", questions.culture, 1.0, signs, _with_sign),
    "corners": QuestionTemplate("2331410 1000500", questions.corners),
    "cost":    QuestionTemplate("2142110 1010420", questions.cost, 0.7),
    "whole":   QuestionTemplate("3325230 2001000", questions.whole),
    "remains": QuestionTemplate("4353320 2130000", questions.remains),
    "example": QuestionTemplate("3432315 3000000", questions.example, 1.2, second=stranger),
    "moved":   QuestionTemplate("4223220 3530000", questions.moved, 1.0, unambiguous,
                                second=partial(_changed, kinds=("place", "colour"))),
    "why":     QuestionTemplate("3243220 3350100", questions.why, 0.8, unambiguous,
                                second=partial(_changed, kinds=("place",))),
}  # fmt: skip
_CHARTS = {
    "height":     QuestionTemplate("2311310 1000251", questions.height, 2.0),
    "highest":    QuestionTemplate("2332310 4000240", questions.highest, 1.0, _uneven),
    "bars":       QuestionTemplate("2331230 5000240", questions.bars),
    "difference": QuestionTemplate("1251230 4010540", questions.difference),
    "chart":      QuestionTemplate("3314340 2000151", questions.chart),
    "taller":     QuestionTemplate("2332310 4000240", questions.taller, 1.0, _uneven),
    "bar_choice": QuestionTemplate("2311310 1000251", questions.bar_choice),
    "bar_count":  QuestionTemplate("2311310 1000251", questions.bar_count, 0.5),
}  # fmt: skip

FAMILIES: dict[str, dict[str, QuestionTemplate]] = {
    "core": _OBJECTS,
    "many": _OBJECTS,
    "chart": _CHARTS,
}
"""Family of scenes -> the question templates over it, by name."""


@dataclass(frozen=True, slots=True)
class QuestionTurn:
    """A question and its answer, with the spans of words that the pictures confirm or deny."""

    template: str
    """Its name in FAMILIES."""
    question: MarkedText
    answer: MarkedText


@dataclass(frozen=True, slots=True)
class InstructionSample:
    """A conversation about one or two pictures, and all that is known about it."""

    key: str
    scenes: Scenes
    turns: tuple[QuestionTurn, ...]
    """The first question starts with an `<image>` line per picture."""
    ratings: Mapping[str, int]
    """Capability -> 0-5."""
    styles: tuple[str, ...]
    """In the order of STYLES."""
    wrong: tuple[int, ...]
    """Turns that the pictures contradict."""

    @property
    def source(self) -> str:
        """The sub-dataset: all samples that start with the same template."""
        return f"rendered_{self.turns[0].template}"

    def _conversation(self) -> tuple[Turn, ...]:
        return tuple(
            said
            for turn in self.turns
            for said in (Turn("user", turn.question.text), Turn("assistant", turn.answer.text))
        )

    def sample(self, draw: Callable[[Scene], bytes], idx: int | None = None) -> Sample:
        """The sample that a rater reads; `draw` encodes a scene's picture."""
        metadata: dict[str, Any] = {"id": self.key, "image_source": self.source}
        metadata |= {} if idx is None else {"idx": idx}
        images = [draw(scene) for scene in self.scenes]
        return Sample.instruction(images, self._conversation(), self.key, metadata)

    def item(self, images: Sequence[str], idx: int) -> dict[str, Any]:
        """The LLaVA item; `images` are the paths of its pictures, in order."""
        if len(images) != len(self.scenes):
            raise ValueError(f"{len(images)} paths for {len(self.scenes)} pictures")
        roles = {"user": "human", "assistant": "gpt"}
        said = [{"from": roles[turn.role], "value": turn.text} for turn in self._conversation()]
        return {
            "id": self.key,
            "image": images[0] if len(images) == 1 else list(images),
            "conversations": said,
            "idx": idx,
            "image_source": self.source,
        }


def instruction(
    seed: int, index: int, family: str = "core", wrong_share: float = WRONG_SHARE
) -> InstructionSample:
    """The sample of a seed and an index over scenes of a family (a name of FAMILIES)."""
    rng = np.random.default_rng((seed, _INSTRUCTIONS, index))
    names, scenes = _plan(FAMILIES[family], family, rng)
    templates = [FAMILIES[family][name] for name in names]
    answered = [template.write(scenes, rng) for template in templates]
    if rng.random() < wrong_share:
        scenes = _contradicting(scenes, answered, rng)
    facts = [entailed_facts(scene) for scene in scenes]
    wrong = tuple(
        number
        for number, one in enumerate(answered)
        if any(w.fact and w.fact not in facts[w.picture] for w in (*one.question, *one.answer))
    )
    styles = {style for one in answered for style in one.styles}
    return InstructionSample(
        f"i{index:08d}",
        scenes,
        tuple(_turns(names, answered, facts)),
        _rate(templates, answered, right=not wrong),
        tuple(style for style in STYLES if style in styles),
        wrong,
    )


def _plan(
    templates: Mapping[str, QuestionTemplate], family: str, rng: np.random.Generator
) -> tuple[list[str], Scenes]:
    names = [_draw(templates, rng)]
    scenes = templates[names[0]].sample_scenes(family, rng)
    more = int(np.searchsorted(_TURNS, rng.random())) if len(scenes) == 1 else 0
    for _ in range(more):
        left = {n: t for n, t in templates.items() if n not in names and t.can_follow(scenes)}
        names.append(_draw(left, rng))
    return names, scenes


def _draw(templates: Mapping[str, QuestionTemplate], rng: np.random.Generator) -> str:
    sums = np.cumsum([template.share for template in templates.values()])
    return list(templates)[int(np.searchsorted(sums, rng.random() * sums[-1]))]


def _contradicting(
    scenes: Scenes, answered: Sequence[QuestionAnswer], rng: np.random.Generator
) -> Scenes:
    """Pictures of which one makes an answer false."""
    words = pick_one(rng, answered).key_words
    picture = pick_one(rng, words).picture
    statements = tuple(word.fact for word in words if word.fact and word.picture == picture)
    other = contradict(scenes[picture], statements, STRANGER_SHARE, rng)
    return (*scenes[:picture], other, *scenes[picture + 1 :])


def _turns(
    names: Sequence[str], answered: Sequence[QuestionAnswer], facts: Sequence[frozenset[Fact]]
) -> Iterator[QuestionTurn]:
    head = IMAGE_MARK * len(facts)
    for name, one in zip(names, answered, strict=True):
        first, *rest = one.question  # the first word of a question states nothing
        question = [Word(head + first.text), *rest]
        yield QuestionTurn(name, mark(question, facts), mark(one.answer, facts))
        head = ""


def _rate(
    templates: Sequence[QuestionTemplate], answered: Sequence[QuestionAnswer], *, right: bool
) -> dict[str, int]:
    best = {name: max(template.ratings[name] for template in templates) for name in CAPABILITIES}
    in_sentences = any(one.answer[-1].text.endswith(".") for one in answered)
    best["language"] = min(5, best["language"] + in_sentences)
    return best if right else {name: min(value, WRONG_CAP) for name, value in best.items()}

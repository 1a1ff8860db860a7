"""Instruction samples over rendered scenes: questions, answers, known ratings and styles.

The text of a sample is written first, over scenes of its own, and is right of them. Then the
pictures are chosen: in `wrong_share` of the samples one of them contradicts an answer. All follows
from (seed, index, family), so any sample can be made again alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsieve.capabilities import STYLES
from mmsieve.rendered.claims import contradict, truths
from mmsieve.rendered.exchanges import Exchange, Scenes
from mmsieve.rendered.scenes import Fact, Scene
from mmsieve.rendered.task_ratings import rate
from mmsieve.rendered.tasks import FAMILIES, Task
from mmsieve.rendered.words import Marked, mark_facts
from mmsieve.sample import Sample, Turn

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

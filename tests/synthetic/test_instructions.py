"""Synthetic instruction samples: true of their pictures or not, as their ratings say."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.synthetic.instructions import (
    FAMILIES,
    WRONG_CAP,
    WRONG_SHARE,
    InstructionSample,
    instruction,
)
from mmsieve.synthetic.scenes import CORNERS, PLACES, Scene, entailed_facts, falsify, sample_scene
from mmsieve.synthetic.teacher import Drawing
from mmsieve.synthetic.texts import NUMBERS
from tests.helpers.drawn import NEEDS_PICTURE

INDICES = st.integers(0, 10**9)
FAMILY_NAMES = st.sampled_from(sorted(FAMILIES))
MANY = 3000


@pytest.fixture(scope="module")
def core() -> list[InstructionSample]:
    return [instruction(11, index) for index in range(MANY)]


def _text(sample: InstructionSample) -> str:
    return "\n".join(f"{turn.question.text} {turn.answer.text}" for turn in sample.turns)


@given(INDICES, FAMILY_NAMES)
def test_the_text_is_written_before_anyone_knows_whether_it_will_be_right(index, family):
    """The reason why no reader of the text alone can tell: it is the same text."""
    right = instruction(3, index, family, wrong_share=0)
    wrong = instruction(3, index, family, wrong_share=1)
    assert _text(right) == _text(wrong)
    assert not right.wrong and wrong.wrong
    assert right.styles == wrong.styles and right.source == wrong.source
    assert max(wrong.ratings.values()) <= WRONG_CAP < max(right.ratings.values())
    assert wrong.ratings == {name: min(r, WRONG_CAP) for name, r in right.ratings.items()}


@given(INDICES, FAMILY_NAMES)
def test_a_sample_can_be_made_again_alone(index, family):
    assert instruction(5, index, family) == instruction(5, index, family)


def test_a_text_only_classifier_cannot_tell_right_from_wrong():
    samples = [instruction(4, index) for index in range(8000)]
    texts, wrong = [_text(s) for s in samples], np.array([bool(s.wrong) for s in samples])
    counter = CountVectorizer(ngram_range=(1, 3), min_df=3, token_pattern=r"\S+")
    seen = counter.fit_transform(texts[:6000])
    guesses = MultinomialNB().fit(seen, wrong[:6000]).predict(counter.transform(texts[6000:]))
    assert np.mean(guesses == wrong[6000:]) < 0.57  # chance is 0.53, give or take 0.011


def test_half_of_the_samples_or_a_little_less_are_wrong(core):
    assert abs(np.mean([bool(s.wrong) for s in core]) - WRONG_SHARE) < 0.035


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_wrong_sample_has_words_that_its_pictures_deny(family):
    for index in range(MANY):
        sample = instruction(6, index, family, wrong_share=1)
        turns = [sample.turns[i] for i in sample.wrong]
        assert any(turn.answer.wrong or turn.question.wrong for turn in turns), _text(sample)


def test_every_template_style_and_capability_is_taught(core):
    assert {turn.template for s in core for turn in s.turns} == set(FAMILIES["core"])
    counts = Counter(style for s in core for style in s.styles)
    assert set(counts) == set(STYLES)
    assert min(counts.values()) > 0.04 * MANY
    for capability in CAPABILITIES:
        assert max(s.ratings[capability] for s in core) == 5
        assert min(s.ratings[capability] for s in core) <= WRONG_CAP


def test_ratings_follow_from_the_turns(core):
    for sample in core:
        if sample.wrong:
            continue
        profiles = [FAMILIES["core"][turn.template].ratings for turn in sample.turns]
        whole = any(turn.answer.text.endswith(".") for turn in sample.turns)
        for name, rating in sample.ratings.items():
            best = max(profile[name] for profile in profiles)
            assert rating == (min(5, best + whole) if name == "language" else best)


def test_what_needs_the_picture_cannot_be_rated_well_without_it(core):
    """Even with the ratings of every template known, 70% at most are exact without it."""
    assert set(NEEDS_PICTURE) >= {"spatial", "attribute", "logical", "scene", "finegrained"}
    unseen = [instruction(11, index, wrong_share=0) for index in range(MANY)]
    for name in NEEDS_PICTURE:
        above = np.mean([sample.ratings[name] > WRONG_CAP for sample in unseen])
        assert above >= 2 / 3
        exact = np.mean(
            [a.ratings[name] == b.ratings[name] for a, b in zip(core, unseen, strict=True)]
        )
        assert exact <= 0.7


@given(INDICES, FAMILY_NAMES)
def test_words_are_marked_where_they_stand_and_denied_only_in_wrong_turns(index, family):
    sample = instruction(6, index, family)
    for number, turn in enumerate(sample.turns):
        for marked in (turn.question, turn.answer):
            for start, end in (*marked.right, *marked.wrong):
                assert re.fullmatch(r"[A-Za-z-]+|\[[0-9.,]+\]", marked.text[start:end])
        assert not turn.answer.wrong or number in sample.wrong
        if not sample.wrong:
            assert not turn.question.wrong
            assert turn.answer.right


def _colour(scene: Scene, question: str, answer: str) -> bool | None:
    found = re.search(r"colour (?:is|has) the (\S+) at the (\S+?)[?:]", question)
    thing = found and scene.thing_at(PLACES.index(found[2]))
    return thing and thing.shape == found[1] and answer.rstrip(".").split()[-1] == thing.colour


def _place(scene: Scene, question: str, answer: str) -> bool | None:
    found = re.search(r"is the (\S+) (\S+)\?", question)
    thing = scene.thing_at(PLACES.index(answer.rstrip(".").split()[-1]))
    return thing and found and (thing.colour, thing.shape) == (found[1], found[2])


def _corners(scene: Scene, question: str, answer: str) -> bool | None:
    found = re.search(r"at the (\S+)\?", question)
    thing = found and scene.thing_at(PLACES.index(found[1]))
    if not thing or thing.shape not in CORNERS:
        return False
    return answer.rstrip(".").split()[-1] == (NUMBERS[CORNERS[thing.shape]].replace("no", "none"))


def _count(scene: Scene, question: str, answer: str) -> bool | None:
    found = re.search(r"objects are (\w+)\?", question)
    kind = None if found is None or found[1] == "there" else found[1]
    number = sum(kind in (None, t.colour, t.fill) for t in scene.things)
    return NUMBERS[number] in answer.lower().replace(".", "").split()


def _sign(scene: Scene, question: str, answer: str) -> bool | None:
    words = answer.replace(".", "").split()
    return any(t.word in words and (len(words) == 1 or t.place in words) for t in scene.things)


READERS = {"colour": _colour, "place": _place, "corners": _corners, "count": _count, "sign": _sign}
"""Templates whose answers are read here from the picture and the text alone."""


@pytest.mark.parametrize("template", sorted(READERS))
def test_another_reader_agrees_on_which_answers_are_wrong(template, core):
    seen = Counter()
    for sample in core:
        for number, turn in enumerate(sample.turns):
            if turn.template == template:
                right = bool(
                    READERS[template](sample.scenes[0], turn.question.text, turn.answer.text)
                )
                assert right == (number not in sample.wrong), _text(sample)
                seen[right] += 1
    assert min(seen[True], seen[False]) > 20


def _check_moves(sample: InstructionSample) -> bool:
    """Whether `the COLOUR SHAPE moved ... to the PLACE` is so in the second picture."""
    found = re.search(
        r"[Tt]he (\S+) (\S+) moved (?:from the \S+ )?to the (\S+?)\.?$", _text(sample)
    )
    assert found
    thing = sample.scenes[1].thing_at(PLACES.index(found[3]))
    return bool(thing and (thing.colour, thing.shape) == (found[1], found[2]))


def test_what_moved_can_be_seen_in_the_second_picture():
    for index in range(4000):
        sample = instruction(8, index)
        if " moved " in _text(sample) and (not _check_moves(sample)):
            assert sample.wrong
        if " moved " in _text(sample) and not sample.wrong:
            assert _check_moves(sample)


@given(INDICES, FAMILY_NAMES)
def test_any_true_statement_can_be_made_false(seed, family):
    scene = sample_scene(family, seed)
    rng = np.random.default_rng(seed)
    statements = [
        fact
        for fact in sorted(entailed_facts(scene))
        if fact.attribute != "size" and not fact.attribute.startswith("not ")
    ]
    statement = statements[int(rng.integers(len(statements)))]
    assert statement not in entailed_facts(falsify(scene, statement, rng))


@given(INDICES)
def test_an_item_reads_like_published_instruction_data(index):
    sample = instruction(9, index)
    paths = [f"images/{sample.key}-{i}.png" for i in range(len(sample.scenes))]
    item = json.loads(json.dumps(sample.item(paths, idx=index)))
    texts = [turn["value"] for turn in item["conversations"]]
    assert [turn["from"] for turn in item["conversations"]] == ["human", "gpt"] * len(sample.turns)
    assert texts[0].startswith("<image>\n" * len(paths))
    assert "".join(texts).count("<image>") == len(paths)
    assert item["image"] == (paths[0] if len(paths) == 1 else paths)
    assert item["idx"] == index and item["image_source"] == sample.source
    with pytest.raises(ValueError, match="pictures"):
        sample.item([*paths, "more.png"], idx=index)


def test_a_sample_holds_its_encoded_pictures_and_its_turns():
    sample = next(s for s in (instruction(2, i) for i in range(100)) if len(s.scenes) == 2)
    drawn, blank = Drawing(), Drawing(blank=True)
    made, unseen = sample.sample(drawn.draw, idx=7), sample.sample(blank.draw)
    assert made.kind == "instruction"
    assert [image.data for image in made.images] == [drawn.draw(s) for s in sample.scenes]
    assert [turn.role for turn in made.turns] == ["user", "assistant"] * len(sample.turns)
    assert made.metadata == {"id": sample.key, "image_source": sample.source, "idx": 7}
    assert replace(unseen, parts=made.parts, metadata=made.metadata) == made
    assert unseen.images != made.images

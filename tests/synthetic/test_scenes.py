"""Synthetic scenes: the same pixels everywhere, and texts at the level that they have."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from mmsieve.generation.files import IMAGE_MARK
from mmsieve.synthetic.draw import draw_scene
from mmsieve.synthetic.scenes import WORLDS, Scene, sample_scene
from mmsieve.synthetic.teacher import Drawing, caption_group, document_group
from mmsieve.synthetic.texts import caption_set, describe, mark

SEEDS = st.integers(0, 2**40)
FAMILIES = st.sampled_from(sorted(WORLDS))

PIXELS = {
    "core": "f040d2c03f8b6383",
    "many": "e554cceeded2ed48",
    "chart": "62429684cf032004",
    "table": "c9f2336c524092cb",
}
"""SHA-256 of the RGB bytes of seed 7, size 72: a change of these changes every training set."""


def _pixel_hash(scene: Scene) -> str:
    return hashlib.sha256(draw_scene(scene).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("family", sorted(WORLDS))
def test_a_seed_always_draws_the_same_pixels(family):
    assert _pixel_hash(sample_scene(family, 7)) == PIXELS[family]


@given(SEEDS, FAMILIES)
def test_a_description_of_a_scene_is_right_and_complete(seed, family):
    scene = sample_scene(family, seed)
    marked = mark(describe(scene, np.random.default_rng(seed)), [scene.facts()])
    assert not marked.wrong
    right = {marked.text[start:end].lower() for start, end in marked.right}
    for thing in scene.things:
        assert {value.lower() for value in thing.attributes().values()} <= right
        assert thing.place in right


@given(SEEDS)
def test_levels_of_captions_are_at_their_distance_from_the_picture(seed):
    scene = sample_scene("core", seed)
    unrelated, several, one, right = caption_set(scene, np.random.default_rng(seed))
    assert right.described == scene
    assert _changed_properties(one.described, scene) == 1
    assert _changed_properties(several.described, scene) >= 3
    by_place = {thing.cell: thing for thing in scene.things}
    assert [thing.cell for thing in several.described.things] == sorted(by_place)
    for thing in several.described.things:  # recognisable: the place, and the colour or the shape
        old = by_place[thing.cell]
        assert thing.colour == old.colour or thing.shape == old.shape
    for thing in unrelated.described.things:
        old = by_place.get(thing.cell)
        assert old is None or (thing.colour != old.colour and thing.shape != old.shape)


def _changed_properties(described: Scene, scene: Scene) -> int:
    """Attributes that differ; an object that moved, came or went is one property."""
    ours = {thing.cell: thing for thing in scene.things}
    theirs = {thing.cell: thing for thing in described.things}
    changed = max(len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys()))
    for cell in ours.keys() & theirs.keys():
        new = theirs[cell].attributes()
        changed += sum(new[name] != value for name, value in ours[cell].attributes().items())
    return changed


@given(SEEDS)
def test_the_words_marked_wrong_are_those_that_contradict_the_picture(seed):
    for caption in caption_set(sample_scene("core", seed), np.random.default_rng(seed)):
        marked = caption.text
        assert bool(marked.wrong) == (caption.level < 3)
        for start, end in (*marked.right, *marked.wrong):
            assert re.fullmatch(r"[A-Za-z-]+", marked.text[start:end])


@given(st.integers(0, 10**6))
def test_documents_show_each_picture_once_and_have_four_levels(index):
    group = document_group(3, index)
    assert [text.label for text in group.texts] == [0, 1, 2, 3]
    for document in group.texts:
        assert sorted(document.images) == list(range(len(group.images)))
        assert document.text.count(IMAGE_MARK) == len(group.images)
        for start, end in (*document.right, *document.wrong):
            assert document.text[start:end].isalpha()
    assert not group.texts[3].wrong
    assert len(group.texts[2].wrong) >= len(group.images)


def test_blank_images_keep_the_texts():
    drawn, blank = caption_group(1, 2), caption_group(1, 2, Drawing(blank=True))
    assert blank.texts == drawn.texts
    assert blank.images != drawn.images


def test_the_wording_of_captions_does_not_give_their_level_away():
    """A naive Bayes of words and word pairs, given 6,000 captions, does no better than chance."""
    captions = [caption for index in range(2000) for caption in caption_group(5, index).texts]
    texts = [caption.text for caption in captions]
    levels = np.array([int(caption.label) for caption in captions])
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False)
    seen = counter.fit_transform(texts[:6000])
    guesses = MultinomialNB().fit(seen, levels[:6000]).predict(counter.transform(texts[6000:]))
    assert np.mean(guesses == levels[6000:]) < 0.32  # chance is 0.25

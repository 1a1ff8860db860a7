"""Assessments of captions: scores that follow from the truth, rewrites that can be read back."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve.synthetic.assessments import OVERALL, assessed_pair, canonical_caption
from mmsieve.synthetic.scenes import (
    WORLDS,
    Fact,
    change_one,
    change_several,
    sample_scene,
    stranger,
)
from mmsieve.synthetic.teacher import Drawing, assessment_group
from mmsieve.synthetic.texts import describe, mark
from tests.helpers.drawn import is_complete, stated_facts, states_only_true_facts

SEEDS = st.integers(0, 2**40)
FAMILIES = st.sampled_from(sorted(WORLDS))
SCALES = (
    "overall",
    "text_quality",
    "image_text_matching",
    "object_detail",
    "semantic_understanding",
    "text_chart_description",
)


@given(SEEDS, FAMILIES)
def test_a_canonical_caption_is_read_back_fact_by_fact(seed, family):
    scene = sample_scene(family, seed)
    text = canonical_caption(scene)
    assert stated_facts(text) == scene.facts()
    assert stated_facts(f"  {text.upper()} ") == scene.facts()
    assert states_only_true_facts(text, scene) and is_complete(text, scene)


@given(SEEDS, FAMILIES, st.sampled_from([change_one, change_several, stranger]))
def test_the_canonical_caption_of_a_changed_scene_is_found_out(seed, family, change):
    scene = sample_scene(family, seed)
    other = change(scene, np.random.default_rng(seed))
    assert not states_only_true_facts(canonical_caption(other), scene)
    assert not states_only_true_facts(canonical_caption(scene), other)


@given(SEEDS, FAMILIES, st.data())
def test_a_text_that_is_cut_states_less_or_is_not_read(seed, family, data):
    scene = sample_scene(family, seed)
    text = canonical_caption(scene)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    stated = stated_facts(cut)
    assert (stated is None) == (not cut.rstrip().endswith("."))
    assert not is_complete(cut, scene)
    assert stated is None or states_only_true_facts(cut, scene)


@given(SEEDS, st.data())
def test_a_word_that_is_not_of_the_wording_is_not_read(seed, data):
    words = canonical_caption(sample_scene("core", seed)).split()
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] = data.draw(st.sampled_from(["pink", "ball", "", "12", "<image>"]))
    assert stated_facts(" ".join(words)) is None


@given(st.text())
def test_any_text_is_read_or_not(text):
    assert stated_facts(text) is None or all(isinstance(fact, Fact) for fact in stated_facts(text))


def test_one_object_is_read_without_the_others():
    assert stated_facts("Left : an orange solid ring .") == {
        Fact("left", "place", "left"),
        Fact("left", "colour", "orange"),
        Fact("left", "fill", "solid"),
        Fact("left", "shape", "ring"),
    }


@given(SEEDS, FAMILIES)
def test_every_picture_has_a_good_and_a_poor_caption(seed, family):
    scene = sample_scene(family, seed)
    raw, partner = assessed_pair(scene, np.random.default_rng(seed))
    assert (raw.phase, partner.phase) == ("raw", "partner")
    assert (raw.level == 3) != (partner.level == 3)
    for one in (raw, partner):
        said = one.assessment
        assert said["overall_score"] == OVERALL[one.level]
        assert said["recaption"] == (None if one.level == 3 else canonical_caption(scene))
        assert all(1 <= said[f"{scale}_score"] <= 10 for scale in SCALES)
        assert all(said[f"{scale}_explanation"].endswith(".") for scale in SCALES)
        assert list(said) == ["recaption"] + [
            f"{scale}_{part}" for scale in SCALES for part in ("score", "explanation")
        ]
    good, poor = sorted((raw, partner), key=lambda one: -one.level)
    for scale in SCALES:
        assert good.assessment[f"{scale}_score"] >= poor.assessment[f"{scale}_score"]
    assert good.assessment["image_text_matching_score"] == 9
    assert poor.assessment["image_text_matching_score"] < 9


@given(SEEDS)
def test_the_reason_names_the_wrong_words(seed):
    scene = sample_scene("core", seed)
    for one in assessed_pair(scene, np.random.default_rng(seed)):
        why = one.assessment["image_text_matching_explanation"]
        if one.level < 3:
            wrong = why.removeprefix("Wrong: ").removesuffix(".").split(", ")
            assert set(wrong) <= set(one.text.lower().replace(".", " ").replace(":", " ").split())
        else:
            assert why == "All that it says is true."


def test_neither_the_wording_nor_the_phase_says_how_good_a_caption_is():
    groups = [assessment_group(3, index) for index in range(600)]
    counts = Counter((one.phase, one.level) for group in groups for one in group.pairs)
    for phase in ("raw", "partner"):
        assert 260 < counts[phase, 3] < 340
        assert all(70 < counts[phase, level] < 130 for level in range(3))
    assert all(stated_facts(group.pairs[1].text) is not None for group in groups)


def test_a_group_follows_from_its_seed_and_index():
    one, same, other = (assessment_group(seed, 5) for seed in (1, 1, 2))
    assert one == same
    assert one.scene != other.scene
    blank = assessment_group(1, 5, Drawing(blank=True))
    assert (blank.pairs, blank.image == one.image) == (one.pairs, False)


@pytest.mark.parametrize("family", sorted(WORLDS))
def test_a_canonical_caption_is_in_the_wordings_that_captions_have(family):
    """So that a model trained on captions knows it: every word pair of it occurs in them."""
    known = set()
    for seed in range(1500):
        scene = sample_scene(family, seed)
        known |= pairs(mark(describe(scene, np.random.default_rng(seed))).text)
    used = set().union(
        *(pairs(canonical_caption(sample_scene(family, seed))) for seed in range(2000, 2030))
    )
    assert len(used - known) <= len(used) * 0.02


def pairs(text: str) -> set[tuple[str, str]]:
    return set(itertools.pairwise(text.split()))

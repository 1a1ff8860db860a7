import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve.methods.aitqe.answers import (
    DETAILS,
    DIMENSIONS,
    MARKER,
    Assessment,
    AssessmentError,
    read_answer,
    write_answer,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
SCORES = st.integers(1, 10)
ASSESSMENTS = st.builds(
    Assessment,
    recaption=st.none() | TEXT.filter(bool),
    overall=SCORES,
    scores=st.dictionaries(st.sampled_from(DETAILS), SCORES),
    explanations=st.dictionaries(st.sampled_from(list(DIMENSIONS)), TEXT),
)


@given(ASSESSMENTS)
def test_what_is_written_is_read_back(assessment):
    assert read_answer(write_answer(assessment)) == assessment


@given(ASSESSMENTS, st.data())
def test_an_answer_cut_anywhere_after_its_score_still_gives_rewrite_and_score(assessment, data):
    answer = write_answer(assessment)
    marker = answer.index(f"{MARKER}") if MARKER not in (assessment.recaption or "") else None
    if marker is None:
        return
    cut = data.draw(st.integers(marker + len(MARKER), len(answer)))
    read = read_answer(answer[:cut])
    assert (read.recaption, read.overall) == (assessment.recaption, assessment.overall)
    assert read.scores.items() <= assessment.scores.items()
    assert read.explanations.items() <= assessment.explanations.items()


def test_a_score_that_the_answer_stops_in_is_left_out():
    whole = write_answer(Assessment(recaption=None, overall=1, scores={"object_detail": 10}))
    cut = whole[: whole.index("10") + 1]
    assert read_answer(cut).scores == {} and read_answer(whole).scores == {"object_detail": 10}


@given(TEXT)
def test_any_text_is_read_or_refused(text):
    for answer in (text, f'{{"Recaption": "{text}', f'{{"Overall Score": {text}'):
        with suppress(AssessmentError):
            assert 0 <= read_answer(answer).overall <= 10


def test_keys_are_those_published_in_their_order():
    whole = Assessment(
        recaption="A man.",
        overall=2,
        scores=dict.fromkeys(DETAILS, 3),
        explanations=dict.fromkeys(DIMENSIONS, "So."),
    )
    assert list(json.loads(write_answer(whole))) == [
        "Recaption",
        "Overall Score",
        "Overall Explanation",
        "Text Quality Score",
        "Text Quality Explanation",
        "Image-Text Matching Score",
        "Image-Text Matching Explanation",
        "Object Detail Score",
        "Object Detail Explanation",
        "Semantic Understanding Score",
        "Semantic Understanding Explanation",
        "Text/Chart Description Score",
        "Text/Chart Description Explanation",
    ]
    assert write_answer(whole).startswith('{"Recaption": "A man.", "Overall Score": "2<Overall>", ')


@pytest.mark.parametrize(
    "score",
    [
        '"2<Overall>"',
        '"2"',
        "2",
        "2.0",
        '"2<Overall>',
        '"2<Overall>",',
        '"2<Overall >", A',
        '" 2 "',
    ],
)
def test_an_overall_score_in_any_of_the_published_ways(score):
    assert read_answer('{"Recaption": "A man", "Overall Score": ' + score).overall == 2


@pytest.mark.parametrize(
    ("recaption", "read"),
    [
        ("", None),
        ('"Recaption": null,', None),
        ('"Recaption": " ",', " "),
        ('"Recaption": "A",', "A"),
    ],
)
def test_a_rewrite_may_be_missing(recaption, read):
    assert read_answer(f'{{{recaption} "Overall Score": "9<Overall>"}}').recaption == read


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A man.",
        "{}",
        '{"Recaption": "A man who',
        '{"Recaption": "A man", "Overall Score": "2',
        '{"Recaption": "A man", "Overall Score": -2}',
        '{"Recaption": "A man", "Overall Score": "47<Overall>"}',
        '{"Recaption": "A man", "Overall Score": true}',
        '{"Recaption": ["A"], "Overall Score": 2}',
        '{"Recaption": "say \\"Overall Score\\": \\"2<Overall>',
    ],
)
def test_an_answer_without_a_score_is_refused(answer):
    with pytest.raises(AssessmentError):
        read_answer(answer)

"""Answers as forms: whatever a model prefers, what comes out is a whole answer."""

import json
import random
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.methods.aitqe.answers import (
    DETAILS,
    DIMENSIONS,
    KEYS,
    Assessment,
    answer_pattern,
    answer_pieces,
    fixed_pieces,
    read_answer,
    write_answer,
)
from mmsieve.methods.aitqe.runner import Form
from mmsieve.methods.tokenizer import load_tokenizer
from tests.helpers.paths import RECORDED_DATA

FOLDERS = {
    "aitqe": RECORDED_DATA / "aitqe" / "aitqe-tiny-b",
    "unifilter": RECORDED_DATA.parent.parent / "mmsieve" / "bundled" / "unifilter-tiny",
}


@cache
def backend(name: str):
    return load_tokenizer(FOLDERS[name]).build(plain=True)


@cache
def form(name: str, keys: int = len(KEYS), limit: int = 90) -> Form:
    return Form(backend(name), KEYS[:keys], limit)


def fill(form: Form, choose: random.Random) -> list[int]:
    """An answer whose every choice is drawn."""
    ids: list[int] = []
    while not form.is_done(ids):
        options = [int(token) for token in form.allowed(ids)]
        assert options
        ids.append(choose.choice(options))
        assert len(ids) < form.max_new_tokens
    return ids


@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=6)
@given(st.randoms(use_true_random=False))
def test_any_choices_make_a_whole_answer(name, choose):
    ids = fill(form(name), choose)
    answer = backend(name).decode(ids)
    assert list(json.loads(answer)) == list(KEYS)
    read = read_answer(answer)
    assert 1 <= read.overall <= 10
    assert read.scores.keys() == set(DETAILS)
    assert read.explanations.keys() == DIMENSIONS.keys()


@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=6)
@given(st.randoms(use_true_random=False))
def test_the_default_stops_behind_the_marker(name, choose):
    answer = backend(name).decode(fill(form(name, keys=2), choose))
    assert answer.endswith('<Overall>"}')
    assert 1 <= read_answer(answer).overall <= 10


SAID = st.text(st.sampled_from('abc ,.\\"/\n{}<>:é犬'), max_size=9)
SCORES = st.integers(1, 10)


@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=10)
@given(st.data())
def test_what_training_teaches_fits_the_form(name, data):
    """Every id of an answer as it is taught is one of those allowed there."""
    assessment = Assessment(
        recaption=data.draw(SAID) or None,
        overall=data.draw(SCORES),
        scores=data.draw(st.fixed_dictionaries(dict.fromkeys(DETAILS, SCORES))),
        explanations=data.draw(st.fixed_dictionaries(dict.fromkeys(DIMENSIONS, SAID))),
    )
    pieces = backend(name).encode_batch(answer_pieces(assessment), add_special_tokens=False)
    ids = [token for piece in pieces for token in piece.ids]
    roomy = form(name, limit=900)
    for place, token in enumerate(ids):
        assert token in [int(option) for option in roomy.allowed(ids[:place])]
    assert roomy.is_done(ids) and not roomy.is_cut(ids)
    assert read_answer(backend(name).decode(ids)) == assessment


@settings(max_examples=100)
@given(st.text(st.sampled_from('abc ,.\\"/\n{}<>:é犬'), max_size=30), SCORES)
def test_the_servers_pattern_takes_what_training_teaches(said, overall):
    """Up to the escapes and characters that it allows."""
    answer = write_answer(Assessment(recaption=said or None, overall=overall))
    assert re.fullmatch(answer_pattern(KEYS[:2], 90), answer)


@settings(max_examples=100)
@given(st.from_regex(answer_pattern(KEYS[:2], 9), fullmatch=True))
def test_whatever_the_servers_pattern_takes_is_an_answer(text):
    assert list(json.loads(text)) == list(KEYS[:2])
    assert 1 <= read_answer(text).overall <= 10


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("a" * 240, True),
        ("a" * 241, False),
        ('\\"' * 32, True),
        ('\\"' * 33, False),
        ('The \\"Sea\\"' + "a" * 240, True),
        ('The \\"Sea\\"' + "a" * 241, False),
    ],
)
def test_the_servers_pattern_ends_a_loop(said, fits):
    start, middle, end = fixed_pieces(KEYS[:2])
    found = re.fullmatch(answer_pattern(KEYS[:2], 90), f"{start}{said}{middle}10{end}")
    assert bool(found) is fits


def test_a_rewrite_at_its_limit_is_cut():
    found = form("aitqe", keys=2, limit=9)  # three ids
    letter = backend("aitqe").encode("a").ids[0]
    ids: list[int] = []
    for _ in range(200):
        if found.is_done(ids):
            break
        options = [int(token) for token in found.allowed(ids)]
        ids.append(letter if letter in options else options[0])
    assert found.is_cut(ids)
    assert read_answer(backend("aitqe").decode(ids)).recaption == "aaa"

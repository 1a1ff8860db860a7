"""Guard rails: which rewrites are used, and why the others are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve.methods.aitqe.answers import Refused, choose, edit_distance, is_loop, words

CAPTION = "IMG 1234 great photo!!"
GOOD = "Two dogs asleep on a red sofa."


@pytest.mark.parametrize(
    ("proposed", "refused"),
    [
        (GOOD, None),
        ("  ...  ", Refused.EMPTY),
        (" ", Refused.EMPTY),
        ("A dog on a sofa, on a sofa, on a sofa, on a", Refused.REPEATED),
        ("the the the the dog", Refused.REPEATED),
        ("两只狗在红色沙发上睡觉", Refused.WRONG_SCRIPT),
        ("Две собаки спят on a sofa", Refused.WRONG_SCRIPT),
        ('A shop sign that reads "出口", above a door.', None),
        (CAPTION + " ", Refused.UNCHANGED),
        ("Ein schlafender Hund", None),
    ],
)
def test_rewrites_are_used_or_refused_with_a_reason(proposed, refused):
    rewrite = choose(CAPTION, proposed, wanted=True, truncated=False, max_edit=None)
    assert rewrite.refused == refused
    assert rewrite.rewritten == (refused is None)
    assert rewrite.final == (CAPTION if refused else proposed.strip())
    assert rewrite.distance == edit_distance(CAPTION, proposed)


def test_a_caption_keeps_its_script():
    assert choose("两只狗", "三只猫在睡觉", True, False, None).rewritten
    assert choose("ふたつのいぬ", "二匹の犬が眠っている", True, False, None).rewritten
    assert choose("两只狗", "Two dogs asleep.", True, False, None).refused == Refused.WRONG_SCRIPT
    assert choose("1234", "Two dogs asleep.", True, False, None).rewritten
    assert choose("", "两只狗", True, False, None).refused == Refused.WRONG_SCRIPT


def test_a_rewrite_that_is_not_wanted_is_no_refusal():
    rewrite = choose(CAPTION, GOOD, wanted=False, truncated=False, max_edit=None)
    assert (rewrite.final, rewrite.rewritten, rewrite.refused) == (CAPTION, False, None)
    assert choose(CAPTION, None, True, False, None).distance is None


def test_cut_off_and_far_off_rewrites_are_refused():
    assert choose(CAPTION, GOOD, True, True, None).refused == Refused.TRUNCATED
    near = "IMG 1234 great dog photo"
    assert choose(CAPTION, near, True, False, 0.2).rewritten
    assert choose(CAPTION, near, True, False, 0.19).refused == Refused.TOO_DIFFERENT
    assert choose(CAPTION, near, True, False, 0.0).refused == Refused.TOO_DIFFERENT


def by_the_book(one: list[str], other: list[str]) -> int:
    row = list(range(len(other) + 1))
    for place, word in enumerate(one, 1):
        above, row = row, [place]
        for column, letter in enumerate(other, 1):
            best = min(above[column] + 1, row[-1] + 1, above[column - 1] + (word != letter))
            row.append(best)
    return row[-1]


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12)


@given(TEXTS, TEXTS)
def test_the_distance_is_levenshteins_over_the_longer_text(one, other):
    distance = edit_distance(" ".join(one), " ".join(other))
    longer = max(len(one), len(other), 1)
    assert distance == pytest.approx(by_the_book(one, other) / longer)
    assert distance == edit_distance(" ".join(other), " ".join(one))


@given(st.lists(st.integers(0, 9).map(str), max_size=8), st.integers(1, 12))
def test_loops_are_found_wherever_they_are(before, length):
    piece = [f"w{number}" for number in range(length)]
    assert is_loop([*before, *piece * (4 if length == 1 else 3)])
    assert not is_loop([*piece, *piece])


def test_words_have_no_punctuation():
    assert words("A dog's (red) leash, 2.5 m; 犬と猫") == [
        *("A", "dog", "s", "red", "leash", "2", "5", "m"),
        *("犬", "と", "猫"),
    ]

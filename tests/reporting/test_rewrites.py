"""The rewrites of a report: word by word, scores first, and what they shifted over all rows."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmsieve
from mmsieve.methods.aitqe.answers import DETAILS, EXPLANATIONS
from mmsieve.reporting.rewrites import WordChanges
from mmsieve.reporting.texts import diff_words
from tests.helpers.browsing import foreign_scripts, look_at, needs_browser
from tests.helpers.pages import cards_of, cells, section_of, told
from tests.helpers.tables import rows_of, write_table

EVIL = "</script><script>alert(1)</script><del onclick=x>\u202e\x00"
CAPTIONS = ["A red cat sits on a mat.", "A dog.", "One. Two. Three.", EVIL]
PROPOSED = ["A black cat sits on the mat.", "A dog.", None, f"{EVIL} and more"]


@pytest.fixture
def section(tmp_path: Path) -> str:
    """The section about rewrites: one used, one refused, one not proposed, one hostile."""
    write_assessments(tmp_path)
    mmsieve.report(str(tmp_path / "assessments"), out=tmp_path / "page.html")
    return section_of(tmp_path / "page.html", "assessments")


def write_assessments(folder: Path) -> Path:
    rows = rows_of("00000", [None] * 4)
    del rows["quality_score"]
    used = [True, False, False, True]
    rows |= {"overall_score": [2.0, 4.0, 9.0, 3.0], "rewritten": used, "caption": CAPTIONS}
    rows |= {"recaption": PROPOSED, "rewrite_refused": [None, "unchanged", None, None]}
    pairs = zip(used, CAPTIONS, PROPOSED, strict=True)
    rows |= {"final_caption": [new if is_used else old for is_used, old, new in pairs]}
    rows |= {"caption_quality": [0.25, None, None, 1.0], "recaption_quality": [2.5, None, None, 2]}
    rows |= {f"{name}_score": [float(n)] * 4 for n, name in enumerate(DETAILS, 1)}
    rows |= {name: [f"because of {name} {EVIL}"] * 4 for name in EXPLANATIONS.names}
    made_with = {"rewrite_below": "7"}
    return write_table(
        folder / "assessments", {"00000": rows}, kind="assessment", fingerprint=made_with
    )


def test_a_rewrite_is_shown_word_by_word_and_judged_before_it_is_explained(section):
    cards = {re.search("00000-k[0-9]", card)[0]: card for card in cards_of(section, "Rewritten")}
    card = cards["00000-k0"]
    diff = re.sub(r'<span class="heard">.*?</span>', "", card.split('class="diff"')[1])
    diff = re.sub(r'<span class="sign".*?>([^<]*)</span>', r"\1", diff.split("</p>")[0])
    words = diff.replace("&#8288;", "").replace("&minus;", "-").split("<bdi>")[1]
    assert words.startswith("A <del>-red</del> <ins>+black</ins> cat sits on <del>-a</del>")
    verdict = "Rewrite used: the overall score 2 is below 7"
    assert f"{verdict}; the classifier gives the caption 0.25, the rewrite 2.50." in card
    scores = card.split('class="judged-by"')[1].split("</table>")[0]
    assert re.findall(r"<td>(\d+)</td>", scores) == ["2", "1", "2", "3", "4", "5"]
    assert card.index('class="judged-by"') < card.index("because of overall_explanation")
    assert card.count("because of ") == 6
    (refused,) = cards_of(section, "Rewrite refused")
    assert "Rewrite refused: it is the caption's own words." in told(refused)
    (left,) = cards_of(section, "Left as it was")
    assert "No rewrite was proposed." in left


def test_what_the_rewriting_shifted_is_counted_over_all_rows(section):
    assert cells(section, "words, rewritten captions") == ["7.50", "8.50"]
    assert cells(told(section), "classifier's score, rewritten captions")[0] == "0.62"
    assert cells(section, "black") == ["0", "1"]
    assert cells(section, "red") == ["1", "0"]
    assert "The classifier's score of a rewritten caption" in told(section)
    assert "--explain" not in section


@needs_browser
def test_hostile_rewrites_stay_text(tmp_path):
    write_assessments(tmp_path)
    page = tmp_path / "page.html"
    mmsieve.report(str(tmp_path / "assessments"), out=page)
    assert foreign_scripts(page.read_text("utf-8")) == []
    assert page.read_text("utf-8").count("<script>") == 1
    look_at(page, width=390)


WORDS = st.lists(
    st.sampled_from(["a", "red", "cat,", "(two)", "\u732b\u304c", "\u05e9"]), max_size=9
)


@given(WORDS.map(" ".join), WORDS.map(" ".join))
def test_a_diff_holds_both_texts(before, after):
    pieces = diff_words(before, after)
    for own, text in (("removed", before), ("added", after)):
        found = "".join(piece.text for piece in pieces if piece.change in ("same", own))
        assert "".join(found.split()) == "".join(text.split())
    assert all(piece.text for piece in pieces)


def test_words_are_counted_in_bounded_memory():
    changes = WordChanges(most=100)
    for number in range(500):
        changes.add(f"often rare{number}", "often often new")
    more, less = changes.most(3)
    assert changes.missed > 0
    assert [one.word for one in more[:2]] == ["new", "often"]
    assert more[0].after >= 500 - changes.missed
    assert len(less) <= 3

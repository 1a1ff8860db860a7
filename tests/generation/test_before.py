"""Plans and journals that earlier versions wrote are read, and written on as they were."""

import json

from mmsieve.generation.journal import AnswerJournal, BatchNote
from mmsieve.generation.plan import read_plan

_PICTURE = {"sha256": "ff", "suffix": "png", "width": 3, "height": 4, "data": ""}
_ITEM = {"id": "a1", "source": "s", "index": 0, "key": "k", "pictures": [_PICTURE]}
PLAN = {
    "subjects": [_ITEM | {"said": {"caption": "x"}}],
    "unusable": [{"source": "s", "key": "q", "status": "no_usable_image", "error": "bad"}],
    "failed": {"z": "gone"},
    "samples": 7,
    "twice": 1,
    "note": "",
}
JOURNAL = """
{"subject": "a1", "usage": {"input": 5, "output": 6}, "answer": {"x": 1}, "problem": null, \
"final": false, "batch": null}
{"token": "t", "subjects": ["a1"], "id": null, "closed": false}
{"token": "t", "subjects": [], "id": "b1", "closed": false}"""


def test_a_plan_is_read_and_written_to_the_byte(tmp_path):
    before = json.dumps(PLAN, separators=(",", ":"))
    (tmp_path / "plan.json").write_text(before)
    plan = read_plan(tmp_path / "plan.json")
    assert plan.items[0].content == {"caption": "x"}
    plan.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == before


def test_a_journal_is_continued(tmp_path):
    (tmp_path / "journal.jsonl").write_text(JOURNAL)
    journal = AnswerJournal(tmp_path / "journal.jsonl")
    assert journal.answers == {"a1": {"x": 1}}
    assert journal.batches["t"] == BatchNote(token="t", subjects=("a1",), id="b1")
    journal.add(BatchNote(token="t", closed=True))
    after = (tmp_path / "journal.jsonl").read_text()
    assert after == JOURNAL + '\n{"token": "t", "subjects": [], "id": null, "closed": true}\n'
    assert AnswerJournal(tmp_path / "journal.jsonl").batches == {}

"""Instruction files through the verbs: limits, resume, broken lists, verbs that are for others."""

import base64
import json
import os
from pathlib import Path

import pytest

import mmsieve
from mmsieve.errors import RequestError
from mmsieve.read import shards
from mmsieve.verbs.export import ExportOptions
from mmsieve.verbs.filter import CutOptions, filter
from tests.helpers.annotators import annotate
from tests.helpers.instruction_files import TALK, item, request_error, write_json
from tests.helpers.shards import captions, image, read, write_jsonl, write_parquet, write_tar

REFERENCE = os.environ.get("MMSIEVE_REFERENCE")
JPEG = image()


def test_a_list_runs_like_any_source(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 4)
    address = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    items = [item(number, image=address) for number in range(10)]
    items[5]["conversations"] = []
    source = str(write_json(tmp_path / "qas.json", items))
    out = tmp_path / "out"
    report = annotate(out, source, workers=0, dry_run=True)
    assert report.notes == tuple(f"to do qas-{n:06d}" for n in range(3)) and not out.exists()
    report = annotate(tmp_path / "trial", source, workers=0, limit=6)
    assert report.statuses == {"ok": 5, "text_missing": 1}
    assert annotate(out, source, workers=0, part="0/2").rows == 6
    report = annotate(out, source, workers=2)
    assert report.rows == 4 and report.notes == ("resumed: 2 shards were done before",)
    decisions = tmp_path / "decisions"
    filter(str(out), out=decisions, cut=CutOptions(top_fraction=0.5), quiet=True)
    with pytest.raises(RequestError, match="holds instruction samples"):
        run = ExportOptions(format="tar", quiet=True)
        mmsieve.export(source, decisions=decisions, out=tmp_path / "tars", run=run)


def test_a_broken_list_has_a_table_of_what_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 4)
    address = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    whole = json.dumps([item(number, image=address) for number in range(10)])
    (tmp_path / "qas.json").write_text(whole[:-30])
    report = annotate(tmp_path / "out", str(tmp_path / "qas.json"), workers=0)
    assert report.statuses == {"ok": 9} and list(report.failed) == ["qas-000002"]
    assert "incomplete: cut off" in report.failed["qas-000002"]
    (tmp_path / "qas.json").write_text(whole)
    report = annotate(tmp_path / "out", str(tmp_path / "qas.json"), workers=0)
    assert not report.failed and report.rows == 10


def test_score_says_that_it_is_for_others(tmp_path, checkpoint):
    files = [
        write_json(tmp_path / "qas.json", [item()]),
        write_jsonl(tmp_path / "lines.jsonl", [item()]),
        write_parquet(tmp_path / "p.parquet", {"conversations": [TALK]}),
    ]
    for path in files:
        with pytest.raises(RequestError, match=r"holds instruction samples.*rate"):
            mmsieve.score(str(path), model=checkpoint, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kinds_that_are_asked_for(tmp_path):
    tar = write_tar(tmp_path / "a.tar", captions(1))
    assert "holds caption samples" in request_error(tar, kinds=("instruction",))
    path = write_parquet(tmp_path / "q.parquet", {"image": [JPEG], "text": ["t"]})
    assert "holds caption samples" in request_error(path, kinds=("instruction",))
    assert read(path, kinds=("caption",)).statuses == ["ok"]


@pytest.mark.skipif(not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of data")
def test_real_items():
    folder = Path(str(REFERENCE)) / "data" / "instruct"
    found = read(folder / "qas.json", images=folder / "images")
    assert found.statuses == ["ok"] * 510 and found.keys == [str(n) for n in range(510)]
    assert all(len(sample.images) == 1 and sample.turns for sample in found.samples)
    assert all(sample.metadata["image_source"] for sample in found.samples)

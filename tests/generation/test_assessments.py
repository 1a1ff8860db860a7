"""generate assessments: a good and a poor caption of every image, judged on six scales."""

import hashlib
import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmsieve
from mmsieve import GenerateOptions, RequestError, RunOptions
from mmsieve.cli import main
from mmsieve.generation.loop import read_answer
from mmsieve.generation.tasks import RequestItem, TeacherAnswerError
from mmsieve.generation.tasks.assessments import AssessmentTask
from mmsieve.methods.aitqe.answers import DIMENSIONS
from tests.helpers.lessons import PROVIDERS, entries, generate, lines
from tests.helpers.shards import caption, captions, image, write_tar
from tests.helpers.teacher_protocols import Ask
from tests.helpers.teacher_server import Fault, Plan, TeacherServer
from tests.helpers.teaching import KEY, Generation, draw_number, read_number
from tests.helpers.well_behaved import DETAILS, assessed, given_caption, good_answer, judged, words


def pairs(out) -> dict[str, list[dict]]:
    """The records by the key of their source."""
    found: dict[str, list[dict]] = {}
    for entry in entries(out):
        found.setdefault(entry["provenance"]["key"], []).append(entry)
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_image_has_a_good_and_a_bad_caption(tmp_path, server, source, provider):
    out = tmp_path / "out"
    asked = {"what": "assessments", "provider": provider, "count": 16, "val_fraction": 0.25}
    report = generate(server, source, out=out, **asked)
    assert report.failed == {}
    assert "12 assessments in train.json, 4 assessments in val.json" in report.summary()
    assert len(server.requests) == 8  # one call for both phases
    originals = {data for name, data in captions(8) if name.endswith(".jpg")}
    for key, (raw, partner) in pairs(out).items():
        number = int(key)
        assert (raw["phase"], partner["phase"]) == ("raw", "partner")
        assert raw["caption"] == f"Square number {number}."
        assert raw["image"] == partner["image"]
        assert (out / raw["image"]).read_bytes() in originals
        good, bad = (raw, partner) if number % 2 else (partner, raw)
        assert good["assessment"]["recaption"] is None
        assert bad["assessment"]["recaption"] == good["caption"]
        assert good["assessment"]["overall_score"] >= 7 > bad["assessment"]["overall_score"]
        for one in (raw, partner):
            assert list(one["assessment"]) == ["recaption"] + [
                f"{name}_{part}" for name in DIMENSIONS for part in ("score", "explanation")
            ]
            assert one["assessment"]["object_detail_explanation"].startswith("object_detail: ")
            data = (out / one["image"]).read_bytes()
            assert one["provenance"]["sha256"] == [hashlib.sha256(data).hexdigest()]
            assert one["provenance"]["teacher"] == f"{provider}:m"
    assert len({entry["id"] for entry in entries(out)}) == 16


def test_a_pair_is_its_image_and_its_caption(tmp_path, server):
    members = [*caption("a", "One."), ("b.jpg", caption("a")[0][1]), ("b.txt", b"Number 2.")]
    members += [("c.jpg", caption("a")[0][1]), ("c.txt", b"One.")]
    source = write_tar(tmp_path / "a.tar", members)
    out = tmp_path / "out"
    report = generate(server, source, out=out, what="assessments", count=10, val_fraction=0.5)
    assert "2 caption pairs for two each, 1 more came twice" in report.summary()
    assert sorted(given_caption(body) for body in server.requests) == ["Number 2.", "One."]
    assert {name: count for name, count in report.written.items() if count} in (
        {"train.json": 4},
        {"val.json": 4},
    )  # the same image is on one side


def test_what_is_no_caption_pair_is_a_reject(tmp_path, server):
    members = [*caption("a", "  \n"), ("b.jpg", b"no image"), ("b.txt", b"x"), *caption("c")]
    members += [("d.jpg", image(1, size=(1, 9))), ("d.txt", b"thin"), ("e.jpg", image(2))]
    source = write_tar(tmp_path / "a.tar", members)
    report = generate(server, source, out=tmp_path / "out", what="assessments", count=10)
    assert len(server.requests) == 1
    assert report.written["train.json"] == 2
    reasons = {line["key"]: line["status"] for line in lines(tmp_path / "out" / "rejects.jsonl")}
    assert reasons == {
        "a": "text_missing",
        "b": "image_undecodable",
        "d": "image_too_small",
        "e": "text_missing",
    }
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(image(1, "PNG"))
    with pytest.raises(RequestError):  # image files have no captions
        generate(server, folder, out=tmp_path / "more", what="assessments")


def test_good_begins_where_it_is_asked_to(tmp_path, server, source):
    server.answer = lambda body: json.dumps(
        {
            "raw": judged(8, "fine"),
            "recaption": "A better one.",
            "bad_caption": None,
            "partner": judged(9, "better"),
        }
    )
    out = tmp_path / "out"
    asked = {"what": "assessments", "count": 2}
    generate(server, source, out=out, judging={"good_from": 9}, **asked)
    assert "is below 9" in words(server.requests[0])
    raw, partner = entries(out)
    assert raw["assessment"]["recaption"] == partner["caption"] == "A better one."
    with pytest.raises(RequestError, match="was made with another"):
        generate(server, source, out=out, **asked)
    report = generate(server, source, out=tmp_path / "other", attempts=1, **asked)
    assert report.rejects == 1  # 8 is good by default, so nothing is rewritten


GOOD = assessed("x", "One 1.")
POOR = assessed("x", "Two 2.")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({**GOOD, "recaption": "Better."}, "recaption is there"),
        ({**GOOD, "bad_caption": None}, "no bad_caption"),
        ({**GOOD, "bad_caption": " the CAPTION "}, "bad_caption is the raw caption"),
        ({**GOOD, "partner": judged(9, "x")}, "8 overall, and its partner 9"),
        ({**POOR, "recaption": " "}, "no recaption"),
        ({**POOR, "recaption": None, "bad_caption": "Bad."}, "bad_caption is there"),
        ({**POOR, "partner": judged(6, "x")}, "4 overall, and its partner 6"),
        ({**GOOD, "raw": judged(11, "x")}, "raw.text_quality_score"),
        ({**GOOD, "raw": judged(0, "x")}, "raw.text_quality_score"),
        ({**GOOD, "raw": judged(7.5, "x")}, "raw.text_quality_score"),
        ({**GOOD, "raw": judged("8", "x")}, "raw.text_quality_score"),
        ({**GOOD, "raw": {**judged(8, "x"), "overall_explanation": " "}}, "it is empty"),
        ({**GOOD, "more": 1}, "more: Extra"),
        ({"raw": judged(8, "x")}, "recaption: Field required"),
    ],
)
def test_an_answer_that_contradicts_itself_can_t_be_used(fields, says):
    item = RequestItem("a1", "s", 0, "k", (), {"caption": "The caption"})
    with pytest.raises(TeacherAnswerError, match=says):
        read_answer(json.dumps(fields), AssessmentTask(), item, "schema")
    assert read_answer(json.dumps(GOOD), AssessmentTask(), item, "schema") == GOOD
    assert read_answer(json.dumps(POOR), AssessmentTask(), item, "schema") == POOR


def test_a_bad_answer_is_asked_for_again_then_rejected(tmp_path, server, source):
    def answer(body):
        if given_caption(body) != "Square number 3.":
            return good_answer(body)
        return json.dumps({**GOOD, "partner": judged(9, "x")})

    server.answer = answer
    asked = {"what": "assessments", "count": 16, "attempts": 2, "concurrency": 1}
    report = generate(server, source, out=tmp_path / "out", **asked)
    assert (report.failed, report.rejects) == ({}, 1)
    (reject,) = lines(tmp_path / "out" / "rejects.jsonl")
    assert (reject["key"], reject["requests"]) == ("0003", 2)
    assert reject["status"] == "model_output_invalid"
    assert "its partner 9" in reject["error"]
    again = [body for body in server.requests if given_caption(body) == "Square number 3."]
    assert "could not be used" in words(again[1])
    assert "0003" not in pairs(tmp_path / "out")


@given(st.text())
def test_a_caption_is_data_in_the_prompt_whatever_it_says(text):
    task = AssessmentTask()
    item = RequestItem("a1", "s", 0, "k", (), {"caption": text})
    prompt = task.load_prompts(None).compose(task.values(item), task.schema(), "schema")
    assert [json.loads(line) for line in prompt.split("\n") if line.startswith('"')] == [text]


def test_prompts_can_be_replaced(tmp_path, server, source):
    from mmsieve.generation.tasks import BUNDLED

    mine = tmp_path / "prompts" / "assessments"
    mine.mkdir(parents=True)
    for file in (BUNDLED / "assessments").glob("*.md"):
        (mine / file.name).write_text(file.read_text())
    (mine / "scales.md").write_text("Judge like a poet. $caption")
    asked = {"what": "assessments", "count": 2, "prompts": mine.parent}
    generate(server, source, out=tmp_path / "out", **asked)
    assert "Judge like a poet. $caption" in words(server.requests[0])
    (mine / "task.md").write_text("Judge $caption. $answer `bad_caption`")
    with pytest.raises(RequestError, match=r"task\.md lacks \$good, \$scales"):
        generate(server, source, out=tmp_path / "more", **asked)


def test_a_dry_run_estimates_and_counts_the_captions(tmp_path, server):
    costs = []
    for name, text in (("short", "A square."), ("long", "A square. " * 4000)):
        source = write_tar(tmp_path / f"{name}.tar", caption("a", text))
        out = tmp_path / "out"
        report = generate(server, source, out=out, what="assessments", count=2, dry_run=True)
        assert "1 caption pair: 1 image of 1 sample" in report.summary()
        costs.append(float(report.summary().rpartition("about $")[2].split()[0]))
    assert costs[1] - costs[0] == pytest.approx(0.01, abs=0.006)  # 10,000 tokens at $1 a million
    assert not server.requests
    assert not out.exists()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_assessments_come_in_batches_too(tmp_path, server, source, provider):
    asked = {"what": "assessments", "provider": provider, "count": 16, "batch": True, "poll": 0.01}
    report = generate(server, source, out=tmp_path / "out", **asked)
    assert report.failed == {}
    assert len(entries(tmp_path / "out")) == 16
    assert all((tmp_path / "out" / entry["image"]).is_file() for entry in entries(tmp_path / "out"))


def stressed(ask: Ask) -> dict:
    """Both captions and their judgements name the number that the image shows."""
    shown = f"number {read_number(ask.images[0]):06d}"
    return assessed(shown, shown)


def test_kills_among_faults_lose_nothing_and_mix_nothing_up(tmp_path):
    members = [
        member
        for n in range(80)
        for member in ((f"{n:06d}.png", draw_number(n)), (f"{n:06d}.txt", b"number %06d" % n))
    ]
    write_tar(tmp_path / "in" / "pairs.tar", members)
    faults = {Fault.RATE_LIMIT: 0.05, Fault.TRUNCATED: 0.05, Fault.CUT: 0.02, Fault.REFUSAL: 0.02}
    plan = Plan(seed=3, faults=faults, stubborn={Fault.REFUSAL: 0.03}, latency=0.01)
    with TeacherServer(stressed, plan) as server:
        made = Generation(
            server,
            "anthropic",
            tmp_path / "in",
            tmp_path / "out",
            count=160,
            what="assessments",
            concurrency=8,
            options=("--timeout", "2", "--max-retries", "8"),
        )
        for kill_at in (15, 45):
            assert made.run(lambda at=kill_at: server.answers >= at, seed=kill_at) == -9
        assert made.run() == 0, made.said[-1]
        stock = made.stock()
        rejected = {reject["key"] for reject in stock.rejects}
        told = Counter(record["provenance"]["key"] for record in stock.records)
        assert set(told.values()) == {2}
        assert rejected.isdisjoint(told) and len(rejected) + len(told) == 80
        for record in stock.records:
            number = record["provenance"]["key"]
            assert number in record["caption"]
            assert number in (record["assessment"]["recaption"] or number)
        assert sum(paid - 1 for paid in server.paid.values()) <= 2 * 8
        assert not server.refused
        assert KEY and not made.leaks()


def drawn(out, **options) -> mmsieve.GenerateReport:
    wanted = {"teacher": "rendered", "quiet": True} | options
    return mmsieve.generate_assessments(out=out, options=GenerateOptions(**wanted))


def test_the_rendered_teacher_writes_both_captions_and_shards(tmp_path):
    report = drawn(tmp_path / "out", count=41, seed=2, val_fraction=0.3, shards=True, shard_size=20)
    assert report.tars == 3
    found = entries(tmp_path / "out")
    assert len(found) == 41
    by_image: dict[str, list[dict]] = {}
    for entry in found:
        by_image.setdefault(entry["image"], []).append(entry)
        assert (tmp_path / "out" / entry["image"]).is_file()
    whole = [two for two in by_image.values() if len(two) == 2]
    assert len(whole) == 20
    for raw, partner in whole:
        assert (raw["phase"], partner["phase"]) == ("raw", "partner")
        good = [one["assessment"]["recaption"] is None for one in (raw, partner)]
        assert sorted(good) == [False, True]
    scored = mmsieve.score(
        str(tmp_path / "out" / "shards"),
        model="unifilter-tiny",
        out=tmp_path / "quality",
        run=RunOptions(workers=0, quiet=True),
    )
    assert scored.statuses == {"ok": 41}
    table = pl.read_parquet(tmp_path / "quality" / "*.parquet")
    levels = dict(zip(table["key"], table["quality_level"], strict=True))
    marks = {entry["id"]: entry["assessment"]["overall_score"] for entry in found}
    assert marks == {key: (2, 4, 6, 9)[level] for key, level in levels.items()}
    assert (
        "done before"
        in drawn(
            tmp_path / "out", count=41, seed=2, val_fraction=0.3, shards=True, shard_size=20
        ).summary()
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--teacher rendered --good-from 8", "--good-from"),
        ("--teacher rendered --texts-per-image 1", "--texts-per-image"),
        ("{source} --teacher openai:m --good-from 1", "--good-from 1"),
        ("{source} --teacher openai:m --positives x.tar", "--positives"),
        ("{source} --teacher openai:m --family many", "--family"),
        ("{source} --teacher rendered", "no SOURCE"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, source, capsys, words, says):
    asked = words.format(source=source).split()
    with pytest.raises(SystemExit) as stop:
        main(["generate", "assessments", *asked, "--count", "4", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


def test_the_scales_are_those_of_the_model():
    assert (*DETAILS, "overall") == (*list(DIMENSIONS)[1:], "overall")

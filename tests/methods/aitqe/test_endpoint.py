"""enhance through a server, whose answers are ours to write: rewrites, guard rails, failures."""

import io
import json
import re
from pathlib import Path
from typing import Any

import PIL.Image
import polars as pl
import pytest

from mmsieve.errors import RequestError
from mmsieve.methods.aitqe.answers import MARKER, Assessment, write_answer
from mmsieve.methods.aitqe.endpoint import read_choice
from mmsieve.methods.aitqe.inputs import question
from tests.helpers.enhancers import RELEASED, enhance, rows
from tests.helpers.shards import caption, captions, image, write_tar
from tests.helpers.well_behaved import KEY, images, words


@pytest.fixture
def model(server, monkeypatch) -> str:
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", KEY)
    return f"endpoint:{server.url}/v1#aitqe"


def assessed(recaption: str | None, overall: int, **more: Any) -> str:
    return write_answer(Assessment(recaption=recaption, overall=overall, **more))


def by_caption(answers: dict[str, str | int]) -> Any:
    """What a server says of each caption."""

    def answer(body: dict[str, Any]) -> str | int:
        return next(said for text, said in answers.items() if text in words(body))

    return answer


ANSWERS = {
    "poor": assessed("Two dogs asleep on a red sofa.", 2),
    "good": assessed(None, 9),
    "fine": assessed("A red square on its own.", 8),
    "loop": assessed("A dog, a dog, a dog, a dog", 3),
    "blank": assessed("...", 3),
    "silent": assessed(None, 3),
    "chat": "Sure! Here is a caption.",
}


def test_only_poor_captions_are_rewritten_and_refusals_say_why(tmp_path, server, model):
    server.answer = by_caption(ANSWERS)
    source = write_tar(tmp_path / "a.tar", [m for n in ANSWERS for m in caption(n, f"{n} words")])
    report = enhance(source, tmp_path / "out", model)
    table = rows(tmp_path / "out").sort("key")
    columns = ("key", "status", "final_caption", "rewritten", "rewrite_refused")
    assert table.select(columns).rows() == [
        ("blank", "ok", "blank words", False, "empty"),
        ("chat", "model_output_invalid", "chat words", False, None),
        ("fine", "ok", "fine words", False, None),
        ("good", "ok", "good words", False, None),
        ("loop", "ok", "loop words", False, "repeated"),
        ("poor", "ok", "Two dogs asleep on a red sofa.", True, None),
        ("silent", "ok", "silent words", False, None),
    ]
    assert table["error"].drop_nulls().to_list() == [
        "no JSON object in the answer: 'Sure! Here is a caption.'"
    ]
    distances = dict(table.select("key", "edit_distance").iter_rows())
    assert distances["poor"] == 1 and distances["good"] is None
    assert report.summary().splitlines()[:4] == [
        "1 of 6 captions rewritten (16.7 %)",
        "2 rewrites refused (1 empty, 1 repeated)",
        "captions by overall score: 2: 1, 3: 3, 8: 1, 9: 1",
        "words of a caption: 2.0 before, 2.8 after; distinct words: 7 before, 13 after",
    ]


def test_the_server_is_asked_as_published(tmp_path, server, model):
    server.answer = by_caption(ANSWERS)
    webp = image(3, "WEBP")
    source = write_tar(
        tmp_path / "a.tar",
        [*caption("k", " poor\n"), ("w.webp", webp), ("w.txt", b"good"), ("x.jpg", b"no")],
    )
    enhance(source, tmp_path / "out", model, max_new_tokens=99)
    bodies = sorted(server.requests, key=words)
    assert len(bodies) == 2
    assert words(bodies[0]) == "\n" + question(" poor\n", plain=True)
    assert images(bodies[0]) == [image(sum(b"k"))]
    assert images(bodies[1])[0].startswith(b"\x89PNG")  # what servers can't be sure to read
    kept = ("model", "max_completion_tokens", "temperature", "stop")
    assert [bodies[0][name] for name in kept] == ["aitqe", 99, 0, ["<Overall>"]]
    # nothing that only some servers know
    assert bodies[0].keys() == {*kept, "messages"}
    assert rows(tmp_path / "out")["status"].to_list() == ["ok", "ok", "text_missing"]


def test_explained(tmp_path, server, model):
    more = {"scores": {"text_quality": 4}, "explanations": {"overall": "Vague."}}
    server.answer = lambda body: assessed("A red square.", 4, **more)
    source = write_tar(tmp_path / "a.tar", captions(1))
    enhance(source, tmp_path / "out", model, explain=True)
    row = rows(tmp_path / "out").row(0, named=True)
    assert (row["text_quality_score"], row["overall_explanation"]) == (4, "Vague.")
    assert row["object_detail_score"] is None and row["text_quality_explanation"] is None
    assert "stop" not in server.requests[0]


def test_a_judge_keeps_the_better_text(tmp_path, server, model):
    server.answer = lambda body: assessed("Some other words for it.", 2)
    source = write_tar(tmp_path / "a.tar", [*captions(6), ("z.jpg", b"no"), ("z.txt", b"no")])
    report = enhance(source, tmp_path / "out", model, accept_if_better="unifilter-tiny")
    table = rows(tmp_path / "out").filter(pl.col("status") == "ok")
    assert report.rows == 7 and table.height == 6
    better = table["recaption_quality"] > table["caption_quality"]
    assert table["rewritten"].equals(better, check_names=False)
    assert table.filter(~pl.col("rewritten"))["rewrite_refused"].to_list() == ["not_better"] * (
        6 - better.sum()
    )
    alone = enhance(source, tmp_path / "clip", model, accept_if_better="rules")
    assert alone.rows == 7


def test_what_a_server_refuses_is_a_row_and_is_asked_again(tmp_path, server, model):
    source = write_tar(tmp_path / "a.tar", [m for n in ("poor", "good") for m in caption(n, n)])
    server.answer = by_caption({**ANSWERS, "good": 400})
    report = enhance(source, tmp_path / "a", model)
    assert report.failed == {"a": "incomplete: 1 request_refused: the same command asks again"}
    assert report.statuses == {"ok": 1, "request_refused": 1}
    assert "the endpoint refused: " in rows(tmp_path / "a")["error"].drop_nulls()[0]
    assert rows(tmp_path / "a")["rewritten"].to_list() == [True, False]

    server.answer = by_caption(ANSWERS)
    server.requests.clear()
    assert enhance(source, tmp_path / "a", model).statuses == {"ok": 2}
    assert ["good" in words(body) for body in server.requests] == [True]  # the other is kept
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["a.parquet"]


def test_a_wrong_key_is_a_wrong_request(tmp_path, server, model, monkeypatch):
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", "wrong-key-that-nobody-may-see")
    with pytest.raises(RequestError, match="MMSIEVE_ENDPOINT_KEY") as caught:
        enhance(write_tar(tmp_path / "a.tar", captions(30)), tmp_path / "out", model)
    assert "nobody-may-see" not in str(caught.value) and KEY not in str(caught.value)
    assert server.requests == server.probes == []


def test_answers_that_end_otherwise_are_read_too(tmp_path, server, model):
    whole = {"Recaption": "A red square.", "Overall Score": 2}
    server.answer = lambda body: f"```json\n{json.dumps(whole)}\n```"
    enhance(write_tar(tmp_path / "a.tar", captions(1)), tmp_path / "out", model)
    assert rows(tmp_path / "out")["final_caption"].to_list() == ["A red square."]


def test_requests_are_bounded(tmp_path, server, model):
    at_once: list[int] = []
    asked = server.answer = lambda body: assessed(None, 9)

    def count(body: dict[str, Any]) -> str:
        with server.lock:
            at_once.append(1)
        said = asked(body)
        with server.lock:
            at_once.append(-1)
        return said

    server.answer = count
    source = write_tar(Path(tmp_path) / "a.tar", captions(12))
    enhance(source, tmp_path / "out", model, concurrency=3)
    under_way = [sum(at_once[:end]) for end in range(len(at_once))]
    assert max(under_way) <= 3 and len(at_once) == 24


def test_no_marker_is_invented_where_an_answer_ends_by_itself(tmp_path, server, model):
    server.answer = lambda body: '{"Recaption": "A red square.", "Overall Score": "2'
    enhance(write_tar(tmp_path / "a.tar", captions(1)), tmp_path / "out", model)
    assert rows(tmp_path / "out")["status"].to_list() == ["model_output_invalid"]


@pytest.mark.parametrize("names", [{"matched_stop": MARKER}, {"stop_reason": MARKER}])
def test_a_marker_that_a_server_stopped_at_belongs_to_the_answer(names):
    choice = {"message": {"content": '{"Overall Score": "2'}, "finish_reason": "stop", **names}
    assert read_choice({"choices": [choice]})["text"] == f'{{"Overall Score": "2{MARKER}'


# --like: what the torch runner would be given, to the pixel and the token


def test_like_a_model_of_ours_the_square_is_sent_and_the_answer_is_held_to_its_form(
    tmp_path, server, model
):
    server.answer = lambda body: assessed("Two dogs asleep.", 2)
    alpha = io.BytesIO()
    PIL.Image.new("RGBA", (90, 40), (200, 10, 10, 0)).save(alpha, "PNG")
    long = "word " * 2000
    source = write_tar(
        tmp_path / "a.tar", [("a.png", alpha.getvalue()), ("a.txt", b"see"), *caption("b", long)]
    )
    report = enhance(source, tmp_path / "out", model, like="aitqe-tiny", max_new_tokens=90)
    assert report.statuses == {"ok": 2}
    bodies = sorted(server.requests, key=lambda body: len(words(body)))
    square = PIL.Image.open(io.BytesIO(images(bodies[0])[0]))
    assert square.size == (72, 72) and square.mode == "RGB"
    assert square.getpixel((0, 0)) == (200, 10, 10)  # as published: alpha is dropped
    (pattern,) = {body["structured_outputs"]["regex"] for body in bodies}
    assert "stop" not in bodies[0] and bodies[0]["repetition_penalty"] == 1
    assert re.fullmatch(pattern, assessed('A "red\\ square".', 10))
    assert re.fullmatch(pattern, assessed("x" * 240, 1))
    for wrong in (assessed("x" * 241, 1), assessed("x", 1) + " ", '{"Recaption": "x"}'):
        assert not re.fullmatch(pattern, wrong)
    table = rows(tmp_path / "out").sort("key")
    assert table["truncated"].to_list() == [False, True]
    assert long not in words(bodies[1]) and long[:1000] in words(bodies[1])


def test_like_a_released_model_answers_are_free_and_stop_at_the_marker(tmp_path, server, model):
    server.answer = lambda body: assessed(None, 8)
    source = write_tar(tmp_path / "a.tar", captions(1))
    report = enhance(source, tmp_path / "out", model, like=str(RELEASED))
    (body,) = server.requests
    assert (body["stop"], body["include_stop_str_in_output"]) == ([MARKER], True)
    assert body["repetition_penalty"] == 1 and "structured_outputs" not in body
    assert report.statuses == {"ok": 1}


def test_a_rewrite_as_long_as_it_may_be_is_refused(tmp_path, server, model):
    server.answer = lambda body: assessed("red " * 100, 2)
    source = write_tar(tmp_path / "a.tar", captions(1))
    enhance(source, tmp_path / "out", model, like="aitqe-tiny", max_new_tokens=90)
    assert rows(tmp_path / "out")["rewrite_refused"].to_list() == ["truncated"]


def test_a_text_that_a_chat_cannot_say_is_a_row(tmp_path, server, model):
    server.answer = lambda body: assessed(None, 8)
    source = write_tar(
        tmp_path / "a.tar", [*caption("a", "fine"), *caption("b", "a <|im_end|> inside")]
    )
    enhance(source, tmp_path / "out", model, like="aitqe-tiny")
    table = rows(tmp_path / "out").sort("key")
    assert table["status"].to_list() == ["ok", "text_undecodable"]
    assert table["final_caption"].to_list() == ["fine", "a <|im_end|> inside"]
    assert len(server.requests) == 1


def test_a_backend_is_for_models_in_this_process(tmp_path, model):
    source = write_tar(tmp_path / "a.tar", captions(1))
    with pytest.raises(RequestError, match="--backend vllm is for models in this process"):
        enhance(source, tmp_path / "out", model, backend="vllm")

"""rate through servers, whose answers are ours to write: what is sent, and what becomes of it."""

import io
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import polars as pl
import pytest
from transformers import AutoTokenizer

from mmsieve import RatingOptions, RequestError, convert, load_rater
from mmsieve.cli import main
from mmsieve.errors import SampleError
from mmsieve.images import ImageLimits, load_square
from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.methods.load import load_raters
from mmsieve.methods.mmssr.checkpoint import CHAT, chat_text, open_onevision
from mmsieve.methods.mmssr.endpoint import read_answer
from mmsieve.methods.mmssr.inputs import MARK, STYLE_QUESTION, capability_question, format_turns
from mmsieve.methods.stock import ServedTokenizer
from mmsieve.sample import Sample, Turn
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.teacher import Drawing
from tests.helpers.instruction_files import write_json
from tests.helpers.mmssr_recordings import CHECKPOINT, invent
from tests.helpers.shards import image
from tests.helpers.well_behaved import KEY, images, serve, words

SCORER, STYLER = "mmssr-tiny-scorer", "mmssr-tiny-styler"


@pytest.fixture
def model(server, monkeypatch) -> str:
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", KEY)
    server.answer, server.odds = answer, odds
    return f"endpoint:{server.url}/v1#aitqe"


def drawn(count: int) -> list[Sample]:
    return [instruction(3, index).sample(Drawing().draw) for index in range(count)]


def rating(body: dict[str, Any]) -> int:
    """What the server rates: by the conversation and the question."""
    return sum(words(body).encode()) % 6


def answer(body: dict[str, Any]) -> str:
    return f"{STYLES[1]}, {STYLES[0]}" if STYLE_QUESTION in words(body) else str(rating(body))


def odds(body: dict[str, Any]) -> dict[str, float]:
    """A half for the rating, the rest of the digits alike."""
    digits = {digit: math.log(0.1) for digit in "012345"}
    return digits | {str(rating(body)): math.log(0.5), "no": -9.0}


def test_ratings_and_their_means_come_from_the_servers_logprobs(server, model):
    samples = drawn(3)
    rows = load_rater(model, like=SCORER, expected=True).rate(samples)
    assert [row["status"] for row in rows] == ["ok"] * 3
    asked = {words(body): body for body in server.requests}
    assert len(server.requests) == len(asked) == 3 * 14
    for sample, row in zip(samples, rows, strict=True):
        mine = [b for text, b in asked.items() if sample.turns[-1].text in text]
        for name, keyword in CAPABILITIES.items():
            question = capability_question(keyword)
            (body,) = [b for b in mine if words(b).endswith(question)]
            assert row[name] == rating(body)
            assert row[f"{name}_expected"] == pytest.approx(1.5 + 0.4 * rating(body))
        assert row["num_images"] == len(sample.images) and row["num_tokens"] > 0


def test_the_server_is_asked_about_the_fitted_square(server, model):
    picture = image(1, "JPEG", size=(200, 100))
    sample = Sample.instruction(
        [picture], [Turn("user", f"Look: {MARK}\nred?"), Turn("assistant", "Yes.")]
    )
    rater = load_rater(model, like=SCORER, capabilities="ocr", expected=True)
    rater.rate([sample])
    (body,) = server.requests
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text"]
    said = f"\nred? Answer: Yes.\n{capability_question(CAPABILITIES['ocr'])}"
    assert [content[0]["text"], content[2]["text"]] == ["Question: Look: ", said]
    wanted = load_square(picture, open_onevision(bundled()).image, ImageLimits())
    assert np.array_equal(PIL.Image.open(io.BytesIO(images(body)[0])), wanted)
    kept = ("max_completion_tokens", "temperature", "repetition_penalty", "logprobs")
    assert [body[name] for name in kept] == [1, 0, 1, True]
    assert len(body["logprob_token_ids"]) == 6 and body["top_logprobs"] == 20
    server.requests.clear()
    load_rater(model, like=SCORER, capabilities="ocr").rate([sample])
    assert "logprobs" not in server.requests[0]  # nobody wants them


def bundled() -> Path:
    return load_raters(SCORER).scorer.folder


def test_a_styler_on_another_server_is_held_to_the_nine_styles(server, model, monkeypatch):
    with ExitStack() as stack:
        other = stack.enter_context(serve())
        other.answer = answer
        styler = f"endpoint:{other.url}/v1#aitqe"
        rater = load_rater(model, like=SCORER, styler=styler, like_styler=STYLER)
        rows = rater.rate(drawn(4))
        assert [row["styles"] for row in rows] == [[STYLES[1], STYLES[0]]] * 4
        assert len(server.requests) == 4 * 14 and len(other.requests) == 4
        body = other.requests[0]
        assert "structured_outputs" in body and words(body).endswith(STYLE_QUESTION)
        assert "structured_outputs" not in server.requests[0]
        monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", "another key")
        with pytest.raises(RequestError, match="MMSIEVE_ENDPOINT_KEY"):
            load_rater(model, like=SCORER, styler=styler, like_styler=STYLER)


def test_what_is_no_rating_or_refused_is_a_row(server, model):
    ocr, stem = (capability_question(CAPABILITIES[name]) for name in ("ocr", "stem"))
    samples = drawn(3)
    texts = [sample.turns[-1].text for sample in samples]
    assert len({*texts}) == 3

    def answered(body: dict[str, Any]) -> str | int:
        if texts[0] in words(body) and ocr in words(body):
            return "A"
        return 400 if texts[1] in words(body) and stem in words(body) else answer(body)

    server.answer = answered
    rows = load_rater(model, like=SCORER).rate(samples)
    statuses = [row["status"] for row in rows]
    assert statuses == ["model_output_invalid", "request_refused", "ok"]
    assert rows[0]["error"] == "not a rating from 0 to 5: ocr 'A'" and rows[0]["stem"] is not None
    assert rows[1]["num_tokens"] and rows[1]["stem"] is None


def test_a_digit_that_no_server_names_counts_as_none(server, model):
    server.odds = lambda body: {"5": -0.1, "4": -2.0, "no": -3.0}
    (row,) = load_rater(model, like=SCORER, expected=True, capabilities="ocr").rate(drawn(1))
    odds = np.exp([-2.0, -0.1])
    assert row["ocr_expected"] == pytest.approx(odds @ [4, 5] / odds.sum())
    server.odds = lambda body: {"no": -0.1}
    (row,) = load_rater(model, like=SCORER, expected=True, capabilities="ocr").rate(drawn(1))
    assert row["status"] == "score_not_finite"


def test_answers_of_the_protocol_are_read_as_they_are():
    choice = {"message": {"content": None}, "logprobs": None}
    assert read_answer({"choices": [choice]}) == {"text": ""}
    with pytest.raises(LookupError):
        read_answer({"choices": []})


# Ids: what a server would make of the text, whatever is in it


def test_servers_read_the_published_ids_or_the_row_says_so(tmp_path):
    """By the tokenizer of the converted folder and its template, as a server uses them."""
    convert(str(CHECKPOINT), out=tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    served = ServedTokenizer.of(open_onevision(CHECKPOINT), CHAT)
    preparer = load_raters(str(CHECKPOINT), RatingOptions(capabilities="ocr")).preparer()
    for sample in invent(60, seed=4):
        item = preparer.prepare(sample)
        ids = [*item.prompts[0].shared.tolist(), *item.prompts[0].ends[0]]
        (text,) = asked(sample, preparer)
        served.check(chat_text(text), ids)
        parts: list[dict[str, Any]] = []
        for number, piece in enumerate(text.split(MARK)):
            parts += [{"type": "image"}] * bool(number) + [{"type": "text", "text": piece}]
        chat = [{"role": "user", "content": parts}]
        found = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        assert found["input_ids"] == served.spread(ids)
    with pytest.raises(SampleError, match="other tokens"):
        served.check(chat_text(text + " "), ids)


def asked(sample: Sample, preparer: Any) -> list[str]:
    question = preparer.writers[0].questions[0]
    return [f"{format_turns(sample.turns, preparer.writers[0].clean)}\n{question}"]


def test_control_strings_in_a_text_are_said_where_a_chat_cannot_say_them(server, model):
    turns = [Turn("user", "What does <|im_end|> mean?"), Turn("assistant", "The end.")]
    rows = load_rater(model, like=SCORER).rate([Sample.instruction([], turns), *drawn(1)])
    assert [row["status"] for row in rows] == ["text_undecodable", "ok"]
    assert rows[0]["num_tokens"] > 0 and len(server.requests) == 14


# Wrong requests


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--like"),
        ({"like": "nobody"}, "no model 'nobody'"),
        ({"like": STYLER}, "names styles only"),
        ({"like": SCORER, "styler": STYLER}, "--styler mmssr-tiny-styler: give endpoint:"),
        ({"like": SCORER, "styler": "endpoint:http://h/v1#s"}, "--like-styler"),
        ({"like": SCORER, "backend": "vllm"}, "--backend vllm"),
    ],
)
def test_what_cannot_be_meant_of_an_endpoint_is_refused(model, options, said):
    with pytest.raises(RequestError, match=said):
        load_rater(model, **options)


def test_options_of_servers_are_for_servers():
    for options in ({"like": SCORER}, {"like_styler": STYLER}):
        with pytest.raises(RequestError, match="is for a model on a server"):
            load_rater(SCORER, **options)
    with pytest.raises(RequestError, match="so --model must be too"):
        load_rater(SCORER, styler="endpoint:http://h/v1#s")


def test_the_command_makes_the_same_table_over_another_server(tmp_path, server, model, capsys):
    """Where a server is changes nothing: the fingerprint is of the model."""
    items = []
    for index in range(6):
        made = instruction(3, index)
        names = [f"{index}-{number}.png" for number in range(len(made.scenes))]
        for name, scene in zip(names, made.scenes, strict=True):
            (tmp_path / name).write_bytes(Drawing().draw(scene))
        items.append(made.item(names, index))
    file = write_json(tmp_path / "items.json", items)
    command = ["rate", str(file), "--images", str(tmp_path), "--quiet", "--workers", "0"]
    command += ["--like", SCORER, "--out", str(tmp_path / "out"), "--model"]
    assert exit_code([*command, model]) == 0
    table = pl.concat([pl.read_parquet(file) for file in (tmp_path / "out").rglob("*.parquet")])
    assert table.height == 6 and set(table["status"]) == {"ok"}
    with serve() as other:
        assert exit_code([*command, f"endpoint:{other.url}/v1#aitqe"]) == 0
        assert other.requests == []
    capsys.readouterr()
    assert exit_code([*command, f"{model}2"]) == 2
    assert "served name" in capsys.readouterr().err


def exit_code(words: list[str]) -> Any:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code

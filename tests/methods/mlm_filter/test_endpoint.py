"""score by MLM-Filter's questions to a server, whose answers are ours to write."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve import MlmFilterOptions, RequestError, Sample, ScoringOptions, load_model, score
from mmsieve.cli import main
from mmsieve.methods.mlm_filter.inputs import METRICS, question, read_score
from mmsieve.tables import table_files
from tests.helpers.shards import caption, captions, image, write_jsonl, write_tar
from tests.helpers.well_behaved import KEY, images, serve, words

ITM, OD, CTQ, SU = METRICS


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", KEY)


@pytest.fixture
def model(server) -> str:
    server.answer = say({})
    return f"mlm-filter:endpoint:{server.url}/v1#aitqe"


class Command:
    """Runs mmsieve, and keeps what it said."""

    def __init__(self, capsys: Any) -> None:
        self._capsys = capsys
        self.said = ""

    def __call__(self, verb: str, *arguments: Any) -> int:
        with pytest.raises(SystemExit) as ended:
            main([verb, *map(str, arguments), "--quiet"])
        out, err = self._capsys.readouterr()
        self.said = out + err
        return ended.value.code

    def score(self, source: Path, out: Path, model: str, *more: str) -> int:
        asked = ("--model", model, "--out", out, "--workers", 0, "--device", "cpu")
        return self("score", source, *asked, *more)


@pytest.fixture
def command(capsys) -> Command:
    return Command(capsys)


def rows(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in table_files(out).values()]).sort("key")


def metric_of(body: dict[str, Any]) -> str:
    aspect = words(body).partition("higher level of ")[2].partition(".")[0]
    return aspect.replace(" ", "_")


def caption_of(body: dict[str, Any]) -> str:
    return words(body).removeprefix("Text Caption: ").partition("\n\n")[0]


def say(answers: dict[str, dict[str, str | int]]) -> Any:
    """What a server says of each caption by metric; 50 where that isn't said."""
    return lambda body: answers.get(caption_of(body), {}).get(metric_of(body), "50")


# The questions, and what is read of the answers


def test_the_words_are_those_of_the_published_script():
    """By digests of what it makes of this caption."""
    found = [
        sha256(question(name, "A red {square}.").encode()).hexdigest()[:16] for name in METRICS
    ]
    assert found == ["fcf956f8b9f4528c", "c9b8faf91baaf9f3", "cf9aa5adb191dcba", "ad9b0bd00cbf0476"]


@given(st.integers(0, 100), st.sampled_from(["", " ", "\n", " \n"]), st.text())
def test_a_number_alone_in_the_first_line_is_a_score(number, before, after):
    assert read_score(f"{before}{number}", is_cut=False) == number
    assert read_score(f"{before}{number}\n{after}", is_cut=True) == number
    assert read_score(f"{before}{number}", is_cut=True) is None


@pytest.mark.parametrize(
    "text", ["", "A", "101", "-1", "007", "8.5", "85%", "85/100", "Score: 85", "85 of 100", "٨٥"]
)
def test_anything_else_is_none(text):
    assert read_score(text, is_cut=False) is None


# The command


def test_four_metrics_are_four_columns(tmp_path, server, model, command):
    said = {"sofa": {ITM: "71", OD: " 20\nThe caption", CTQ: "0", SU: "100"}}
    server.answer = say(said)
    webp = [("w.webp", image(3, "WEBP")), ("w.txt", b"other")]
    bad = [("x.jpg", b"no"), ("x.txt", b"word"), ("y.jpg", image(1)), ("y.txt", b" ")]
    source = write_tar(tmp_path / "a.tar", [*caption("s", "sofa"), *webp, *bad])
    assert command.score(source, tmp_path / "out", model) == 0
    columns = ("status", "quality_score", *(f"{name}_score" for name in METRICS))
    assert rows(tmp_path / "out").select(columns).rows() == [
        ("ok", 47.75, 71, 20, 0, 100),
        ("ok", 50, 50, 50, 50, 50),
        ("image_undecodable", *[None] * 5),
        ("text_missing", *[None] * 5),
    ]
    assert len(server.requests) == 8 and len(server.probes) == 1
    assert {words(body) for body in server.requests} == {
        question(name, text) for name in METRICS for text in ("sofa", "other")
    }
    body = next(body for body in server.requests if caption_of(body) == "sofa")
    assert images(body) == [image(sum(b"s"))]
    kept = {"model", "max_completion_tokens", "temperature", "messages"}
    assert body.keys() == kept and body["temperature"] == 0  # nothing that only some servers know
    other = next(body for body in server.requests if caption_of(body) == "other")
    assert images(other)[0].startswith(b"\x89PNG")


def test_some_of_the_metrics(tmp_path, server, model, command):
    source = write_tar(tmp_path / "a.tar", captions(3))
    some = ("--metrics", f"{SU}, {ITM}")
    assert command.score(source, tmp_path / "out", model, *some) == 0
    assert len(server.requests) == 6
    found = rows(tmp_path / "out")
    assert [name for name in found.columns if name.endswith("_score")] == [
        "quality_score",
        f"{ITM}_score",
        f"{SU}_score",
    ]
    assert command.score(source, tmp_path / "out", model, "--metrics", f"{ITM},{SU}") == 0
    assert len(server.requests) == 6  # it is the same table
    assert command.score(source, tmp_path / "out", model) == 2
    assert "was made with another metrics" in command.said


def test_what_is_no_score_is_a_row_with_the_others(tmp_path, server, model, command):
    server.answer = say({"a": {OD: "Sure! Here is my", SU: "101"}, "b": {ITM: 400, CTQ: "x"}})
    source = write_tar(tmp_path / "a.tar", [m for name in "abc" for m in caption(name, name)])
    assert command.score(source, tmp_path / "out", model) == 1
    assert "1 request_refused: the same command asks again" in command.said
    found = rows(tmp_path / "out")
    assert found["status"].to_list() == ["model_output_invalid", "request_refused", "ok"]
    assert found["quality_score"].to_list() == [None, None, 50]
    by_metric = [found[f"{name}_score"].to_list() for name in METRICS]
    assert by_metric == [[50, None, 50], [None, 50, 50], [50, None, 50], [None, 50, 50]]
    said = f"not a score from 0 to 100: {OD} 'Sure! Here is my', {SU} '101'"
    assert found["error"][0] == said
    assert found["error"][1].startswith("the endpoint refused: ")

    server.answer = say({})
    server.requests.clear()
    assert command.score(source, tmp_path / "out", model) == 0
    assert [metric_of(body) for body in server.requests] == [ITM]  # the other answers were kept
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.parquet"]


def test_a_run_without_one_score_is_none(tmp_path, server, model, command):
    server.answer = lambda body: "<think>"
    source = write_tar(tmp_path / "a.tar", captions(2))
    assert command.score(source, tmp_path / "out", model) == 1
    assert "model_output_invalid" in command.said


def test_a_table_goes_on_at_another_address(tmp_path, server, model, command):
    source = write_tar(tmp_path / "a.tar", captions(2))
    assert command.score(source, tmp_path / "out", model, "--limit", "1") == 0
    with serve() as other:
        moved = f"mlm-filter:endpoint:{other.url}/v1#aitqe"
        assert command.score(source, tmp_path / "out", moved) == 0
        assert 4 <= len(other.requests) <= 8
    assert command.score(source, tmp_path / "out", f"{model}2") == 2
    assert "served name" in command.said


def test_the_published_filters_are_conditions_over_the_columns(tmp_path, server, model, command):
    """ITM >= 66 and OD >= 20 of MLM-Filter, SU >= 85 of Open-Qwen2VL."""
    said = {
        "both": {ITM: "66", OD: "20", SU: "84"},
        "vague": {ITM: "100", OD: "19", SU: "85"},
        "wrong": {ITM: "65", OD: "100", SU: "100"},
        "mute": {ITM: "99", OD: "99", SU: "?"},
    }
    server.answer = say(said)
    source = write_tar(tmp_path / "a.tar", [m for name in said for m in caption(name, name)])
    out = tmp_path / "mlm"
    assert command.score(source, out, model) == 0

    def kept(*cut: str) -> dict[str, str | None]:
        file = tmp_path / "keep.parquet"
        assert command("filter", out, *cut, "--out", file, "--overwrite") == 0
        return dict(pl.read_parquet(file).select("key", "reason").iter_rows())

    both = kept("--where", f"{ITM}_score >= 66 AND {OD}_score >= 20")
    assert both.pop("mute") == "model_output_invalid"
    assert [key for key, reason in both.items() if reason is None] == ["both"]
    semantic = kept("--by", f"{SU}_score", "--min-score", "85")
    assert {key for key, reason in semantic.items() if reason is None} == {"vague", "wrong"}


def test_other_verbs_use_it_by_its_mean(tmp_path, server, model, command):
    """A judge of rewrites is asked too, and a report has its histogram."""
    server.answer = lambda body: str(len(caption_of(body)))
    source = write_tar(tmp_path / "a.tar", [*caption("a", "four"), *caption("b", "longer")])
    assert command.score(source, tmp_path / "out", model) == 0
    page = tmp_path / "page.html"
    assert command("report", tmp_path / "out", source, "--out", page) == 0
    assert rows(tmp_path / "out")["quality_score"].to_list() == [4, 6]

    def enhanced(body: dict[str, Any]) -> str:
        if "Text Caption: " in words(body):
            return str(len(caption_of(body)))
        return json.dumps({"Recaption": "A red square.", "Overall Score": "3"})

    server.answer = enhanced
    enhancer = model.removeprefix("mlm-filter:")
    asked = ("--model", enhancer, "--accept-if-better", model, "--out", tmp_path / "judged")
    assert command("enhance", source, *asked, "--workers", 0) == 0
    judged = rows(tmp_path / "judged").select("caption_quality", "recaption_quality")
    assert judged.rows() == [(4, 13), (6, 13)]


def test_a_model_on_its_own_asks_for_one_metric(server, model):
    server.answer = say({"A dog.": {ITM: "90"}})
    asked = MlmFilterOptions(metrics=ITM)
    sample = Sample.caption(image(1), "A dog.")
    (row,) = load_model(model, "cpu", mlm_filter=asked).score([sample])
    assert (row["status"], row[f"{ITM}_score"]) == ("ok", 90) and f"{SU}_score" not in row
    document = Sample.document(["One.", image(1)])
    (row,) = load_model(model, "cpu", mlm_filter=asked).score([document])
    assert row["status"] == "text_missing"


# Wrong requests


@pytest.mark.parametrize(
    ("named", "more", "says"),
    [
        ("{url}#aitqe", (), "a server is asked for scores by mlm-filter:endpoint:URL#NAME"),
        ("mlm-filter", (), "give mlm-filter:endpoint:URL#NAME"),
        ("mlm-filter:owner/name", (), "is asked on a server: give mlm-filter:endpoint:URL#NAME"),
        ("mlm-filter:{url}", (), "give endpoint:URL#NAME"),
        ("mlm-filter:{url}#aitqe", ("--metrics", "quality"), "'quality' is none of image_text"),
        ("mlm-filter:{url}#aitqe", ("--metrics", ""), "'' is none of image_text_matching, "),
        ("mlm-filter:{url}#aitqe", ("--max-text-tokens", "75"), "--max-text-tokens means nothing"),
        ("mlm-filter:endpoint:http://127.0.0.1:9/v1#aitqe", (), "can't be reached"),
        ("rules", ("--metrics", ITM), "--metrics.*: are for a model on a server, mlm-filter:"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, server, command, named, more, says):
    model = named.replace("{url}", f"endpoint:{server.url}/v1")
    source = write_tar(tmp_path / "a.tar", captions(2))
    asked = {"scoring": ScoringOptions(device="cpu")}
    assert command.score(source, tmp_path / "out", model, *more) == 2
    assert command.said.count("\n") == 1 and not (tmp_path / "out").exists()
    assert not server.requests
    if not more:
        with pytest.raises(RequestError, match=says):
            score(str(source), model=model, out=tmp_path / "out", **asked)
    else:
        assert says.partition(".*")[0] in command.said


def test_documents_are_none_of_its_samples(tmp_path, server, model, command):
    entry = {"image_name": "a.jpg", "matched_text_index": 0}
    document = {"text_list": ["One.", "Two."], "image_info": [entry]}
    source = write_jsonl(tmp_path / "docs.jsonl", [document])
    assert command.score(source, tmp_path / "out", model, "--images", str(tmp_path)) == 2
    assert "documents" in command.said and not server.probes


def test_evaluate_measures_it_and_looks_at_the_servers_first(tmp_path, server, model, command):
    data = tmp_path / "val.json"
    entries = [{"image": f"{n}.jpg", "text": f"<image>\n{n}", "label": n} for n in range(4)]
    for entry in entries:
        (tmp_path / entry["image"]).write_bytes(image(entry["label"]))
    data.write_text(json.dumps(entries))
    gone = "mlm-filter:endpoint:http://127.0.0.1:9/v1#aitqe"
    asked = ("--data", data, "--out", tmp_path / "out", "--resamples", 9)
    assert command("evaluate", "--model", gone, *asked) == 2
    assert "can't be reached" in command.said
    server.answer = lambda body: str(20 * int(caption_of(body)))
    assert command("evaluate", "--model", model, *asked) == 0, command.said
    found = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert found["score"].to_list() == [0, 20, 40, 60]

"""generate with teachers behind a server: training files, journal, rejects, costs, bad requests."""

import hashlib
import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmsieve import RequestError
from mmsieve.cli import main
from mmsieve.generation.files import choose_val
from tests.helpers.lessons import PROVIDERS, entries, generate, lines
from tests.helpers.shards import caption, captions, image, tar_bytes, write_parquet, write_tar
from tests.helpers.well_behaved import KEY, good_answer, good_fields, images, words


def documents(count: int) -> list[tuple[str, bytes]]:
    """The members of so many documents of two images each, in the order red, green."""
    found = []
    for n in range(count):
        text = {"texts": [None, "Words.", None], "images": [f"{n}.a.png", None, f"{n}.b.png"]}
        found += [(f"{n}.json", json.dumps(text).encode())]
        found += [(f"{n}.a.png", image(n, "PNG")), (f"{n}.b.png", image(n + 50, "PNG"))]
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_captions_in_the_released_layout_with_provenance(tmp_path, server, source, provider):
    out = tmp_path / "out"
    report = generate(server, source, out=out, provider=provider, val_fraction=0.25)
    assert report.failed == {}
    assert report.written == {"train.json": 24, "val.json": 8}
    assert len(server.requests) == 8
    found = entries(out)
    assert Counter(entry["label"] for entry in found) == {0: 8, 1: 8, 2: 8, 3: 8}
    originals = {data for name, data in captions(8) if name.endswith(".jpg")}
    for entry in found:
        data = (out / entry["image"]).read_bytes()
        assert data in originals  # the bytes of the source, not what the teacher was shown
        assert entry["text"].startswith("<image>\n")
        told = entry["provenance"]
        assert told["teacher"] == f"{provider}:m"
        assert told["source"] == "pairs"
        assert told["sha256"] == [hashlib.sha256(data).hexdigest()]
        assert told["prompts"]
    assert {entry["provenance"]["key"] for entry in found} == {f"{n:04d}" for n in range(8)}
    hard = next(entry for entry in found if entry["label"] == 2)
    assert [hard["text"][slice(*span)] for span in hard["wrong"]] == ["blue"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_documents_show_all_images_in_order(tmp_path, server, provider):
    source = write_tar(tmp_path / "docs.tar", documents(3))
    out = tmp_path / "out"
    generate(server, source, out=out, provider=provider, what="documents", count=12)
    assert [len(images(body)) for body in server.requests] == [2, 2, 2]
    found = entries(out)
    assert len(found) == 12
    for entry in found:
        assert entry["text"].count("<image>") == len(entry["image"]) == 2
        assert "\n\n\n" not in entry["text"]
        key = int(entry["provenance"]["key"])
        wanted = [image(key, "PNG"), image(key + 50, "PNG")]
        assert [(out / name).read_bytes() for name in entry["image"]] == wanted


def test_a_document_shows_no_more_images_than_asked(tmp_path, server):
    source = write_tar(tmp_path / "docs.tar", documents(2))
    generate(server, source, out=tmp_path / "out", what="documents", count=8, max_images=1)
    assert [len(images(body)) for body in server.requests] == [1, 1]


def test_other_sources_need_no_text(tmp_path, server):
    folder = tmp_path / "photos" / "trip"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(image(1, "PNG"))
    (folder.parent / "b.jpg").write_bytes(image(2))
    bare = write_tar(tmp_path / "bare.tar", [("x.jpg", image(3)), ("y.webp", image(4, "WEBP"))])
    table = write_parquet(tmp_path / "t.parquet", {"image": [{"bytes": image(5), "path": "p"}]})
    generate(server, folder.parent, bare, table, out=tmp_path / "out", count=20)
    keys = {entry["provenance"]["key"] for entry in entries(tmp_path / "out")}
    assert keys == {"trip/a.png", "b.jpg", "x", "y", "t-000000000"}
    server.requests.clear()
    generate(server, folder.parent, out=tmp_path / "docs", count=8, what="documents")
    assert {e["provenance"]["key"] for e in entries(tmp_path / "docs")} == {"trip", "."}


def test_images_are_shown_small_and_without_exif(tmp_path, server):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (300, 100), "red").save(file, "JPEG", exif=exif)
    source = write_tar(tmp_path / "a.tar", [("x.jpg", file.getvalue())])
    generate(server, source, out=tmp_path / "out", count=4, image_side=60)
    (shown,) = images(server.requests[0])
    with Image.open(io.BytesIO(shown)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (60, 20))
        assert not opened.getexif()


def test_the_same_image_twice_is_paid_for_once(tmp_path, server):
    members = [m for n in range(4) for m in caption(f"{n}")]
    twice = [(f"again-{name}", data) for name, data in members]
    source = write_tar(tmp_path / "a.tar", members + twice)
    report = generate(server, source, out=tmp_path / "out", count=100)
    assert sum(report.written.values()) == 16
    assert "4 images for four each, 4 more came twice" in report.summary()
    assert len(set(server.shown())) == len(server.requests) == 4


def test_a_run_that_was_cut_goes_on_and_pays_nothing_twice(tmp_path, server, source):
    out = tmp_path / "out"
    answered = []

    def break_down(body):
        answered.append(body)
        return good_answer(body) if len(answered) <= 3 else 500

    server.answer = break_down
    report = generate(server, source, out=out, concurrency=1)
    (problem,) = report.failed.items()
    assert problem[0] == "5 of 8 images"
    assert len(entries(out)) == 12
    paid = server.shown()[:3]
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('\n{"subject": "c12')  # killed while it wrote a line
    server.answer = good_answer
    server.requests.clear()
    again = generate(server, source, out=out)
    assert again.failed == {}
    assert len(entries(out)) == 32
    assert set(server.shown()).isdisjoint(paid)
    assert len(server.requests) == 5
    server.requests.clear()
    assert "done before" in generate(server, source, out=out).summary()
    assert not server.requests


def test_a_broken_source_is_named_and_the_others_are_used(tmp_path, server, source):
    whole = tar_bytes(caption("x") + caption("y"))
    (source.parent / "short.tar").write_bytes(whole[: len(whole) // 2])
    (source.parent / "zero.tar").write_bytes(b"")
    report = generate(server, source.parent, out=tmp_path / "out", count=100)
    assert "empty file" in report.failed["zero"]
    assert "cut off" in report.failed["short"]
    assert sum(report.written.values()) >= 32


@pytest.mark.long
def test_images_that_have_changed_since_the_plan_are_not_asked_about(tmp_path, server, source):
    out = tmp_path / "out"
    server.answer = lambda body: 500
    generate(server, source, out=out, concurrency=1)
    server.answer = good_answer
    write_tar(source, captions(7))
    report = generate(server, source, out=out)
    ((what, why),) = report.failed.items()
    assert (what, "changed since the plan" in why) == ("1 of 8 images", True)
    assert len(entries(out)) == 28


def bad(kind: str, body: dict) -> str:
    fields = good_fields(body)
    text = json.dumps(fields)
    if kind == "cut":
        return text[: len(text) // 2]
    if kind == "twice":
        return text[:-1] + ', "positive": "Another."}'
    if kind == "missing":
        del fields["easy_negative"]
    return json.dumps(fields | _WRONG.get(kind, {}))


_WRONG = {
    "unknown": {"level": 3},
    "same": {"easy_negative": "some squares", "medium_negative": "SOME  squares"},
    "empty": {"medium_negative": " \n"},
    "mark": {"positive": "A red square <image>."},
    "unchanged": {"changed": {"property": "colour", "right": "red", "wrong": "green"}},
    "far": {"hard_negative": "Something blue that is quite another thing altogether."},
    "surrogate": {"easy_negative": "\ud800"},
}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "not JSON"),
        ("twice", "'positive' stands there twice"),
        ("missing", "easy_negative: Field required"),
        ("unknown", "level: Extra inputs"),
        ("same", "same text"),
        ("empty", "level 1: no text"),
        ("mark", "2 <image> for 1 images"),
        ("unchanged", "changed.wrong"),
        ("far", "more than one property"),
        ("surrogate", "surrogates"),
    ],
)
def test_a_bad_answer_is_asked_for_again_then_recorded(tmp_path, server, source, kind, says):
    poor = []

    def answer(body):
        first = server.shown()[0]
        shown = hashlib.sha256(b"".join(images(body))).hexdigest()[:8]
        if shown == first:
            poor.append(body)
            return bad(kind, body)
        return good_answer(body)

    server.answer = answer
    out = tmp_path / "out"
    report = generate(server, source, out=out, attempts=2, concurrency=1)
    assert report.failed == {}
    assert report.rejects == 1
    assert len(entries(out)) == 28
    assert len(poor) == 2
    assert "could not be used" in words(poor[1])
    (reject,) = lines(out / "rejects.jsonl")
    assert says in reject["error"]
    assert (reject["requests"], reject["status"]) == (2, "model_output_invalid")
    stored = [path for path in (out / "images").rglob("*") if path.is_file()]
    assert len(stored) == 7


def test_unusable_images_are_replaced_and_named(tmp_path, server):
    broken = [("bad.jpg", b"no image"), ("bad.txt", b"x")]
    source = write_tar(tmp_path / "a.tar", broken + captions(3))
    report = generate(server, source, out=tmp_path / "out", count=12)
    assert report.written["train.json"] == 12
    whole = generate(server, source, out=tmp_path / "all", count=100)
    assert whole.rejects == 1
    (reject,) = lines(tmp_path / "all" / "rejects.jsonl")
    assert (reject["key"], reject["status"]) == ("bad", "image_undecodable")


def test_a_refused_image_is_a_reject_and_a_refused_request_stops(tmp_path, server, source):
    server.answer = lambda body: (
        400 if server.shown()[0] in server.shown()[-1:] else good_answer(body)
    )
    report = generate(server, source, out=tmp_path / "one", concurrency=1)
    assert (report.failed, report.rejects) == ({}, 1)
    server.answer = lambda body: 400
    server.requests.clear()
    report = generate(server, source, out=tmp_path / "all", concurrency=1)
    assert len(server.requests) == 5
    assert "every request is refused" in str(report.failed)
    assert report.rejects == 0


def test_a_wrong_key_stops_at_once_and_no_key_is_ever_told(
    tmp_path, server, source, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-that-nobody-may-see")
    server.answer = lambda body: 500
    words = f"generate captions {source} --teacher openai:m --count 32 --out {tmp_path / 'o'}"
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), "--base-url", server.base_url("openai"), "--max-retries", "0"])
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "8 of 8 images: not done" in told.err
    assert "***" in told.err
    files = [path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()]
    everything = told.out + told.err + repr(files)
    assert KEY not in everything
    assert "nobody-may-see" not in everything


def test_human_captions_are_mixed_in_on_the_side_of_their_image(tmp_path, server):
    members = captions(6)
    source = write_tar(tmp_path / "a" / "a.tar", members)
    human = write_tar(tmp_path / "b" / "b.tar", members[:9] + caption("more", "By <image> hand."))
    out = tmp_path / "out"
    generate(server, source, out=out, count=24, val_fraction=0.5, positives=str(human))
    found = [e for e in entries(out) if e["provenance"]["teacher"] == "human"]
    assert len(entries(out)) == 24 + 4
    assert {entry["label"] for entry in found} == {3}
    assert "<image>\nBy image hand." in [entry["text"] for entry in found]
    train, val = (
        {s for e in json.loads((out / n).read_text()) for s in e["provenance"]["sha256"]}
        for n in ("train.json", "val.json")
    )
    assert train and val
    assert train.isdisjoint(val)
    again = tmp_path / "again"
    generate(server, source, out=again, count=24, positives=str(out / "train.json"))
    best = [e for e in json.loads((out / "train.json").read_text()) if e["label"] == 3]
    assert len(entries(again)) == 24 + len(best)


def test_prompts_can_be_replaced_and_are_part_of_what_was_asked(tmp_path, server, source):
    from mmsieve.generation.tasks import BUNDLED

    mine = tmp_path / "prompts"
    for file in BUNDLED.rglob("*.md"):
        copy = mine / file.relative_to(BUNDLED)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    (mine / "captions" / "positive.md").write_text("`positive`: a haiku.")
    out = tmp_path / "out"
    generate(server, source, out=out, count=4, prompts=mine)
    assert "a haiku" in words(server.requests[0])
    with pytest.raises(RequestError, match="was made with another"):
        generate(server, source, out=out, count=4)
    (mine / "captions" / "task.md").unlink()
    with pytest.raises(RequestError, match=r"captions/task\.md"):
        generate(server, source, out=out, count=4, prompts=mine)


def test_a_server_that_takes_no_schema_is_told_it_in_words(tmp_path, server, source):
    server.answer = lambda body: f"```json\n{good_answer(body)}\n```"
    generate(server, source, out=tmp_path / "out", count=4, answer_format="json")
    assert "response_format" not in server.requests[0]
    assert '"hard_negative"' in words(server.requests[0])
    assert len(entries(tmp_path / "out")) == 4
    strict = generate(server, source, out=tmp_path / "strict", count=4)
    assert strict.rejects == 1  # with a schema a fence is no answer


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{source} --teacher openai:m", "OPENAI_API_KEY"),
        ("{source} --teacher anthropic:m", "ANTHROPIC_API_KEY"),
        ("{source} --teacher gemini:m", "gemini:m"),
        ("{source} --teacher openai:", "openai:"),
        ("{source} --teacher openai:m --max-cost 3", "--price"),
        ("{source} --teacher openai:m --price 3", "--price 3"),
        ("{source} --teacher openai:m --concurrency 0", "--concurrency"),
        ("{source} --teacher openai:m --shards", "--shards"),
        ("{source} --teacher openai:m --positives nowhere.tar", "nowhere.tar"),
        ("{source} --teacher rendered", "no SOURCE"),
        ("--teacher rendered --base-url http://x", "--base-url"),
        ("--teacher openai:m", "SOURCE"),
        ("nowhere --teacher openai:m", "nowhere"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, source, monkeypatch, capsys, words, says):
    for provider in PROVIDERS:
        monkeypatch.delenv(f"{provider.upper()}_API_KEY", raising=False)
    asked = words.format(source=source).split()
    with pytest.raises(SystemExit) as stop:
        main(["generate", "captions", *asked, "--count", "4", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


@given(
    images=st.lists(st.lists(st.integers(0, 12).map(str), min_size=1, max_size=3), max_size=20),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_no_image_is_on_both_sides(images, fraction, seed):
    sides = choose_val(images, fraction, seed)
    shown = [
        {i for item, val in zip(images, sides, strict=True) if val == side for i in item}
        for side in (False, True)
    ]
    assert shown[0].isdisjoint(shown[1])
    assert sum(sides) >= round(fraction * len(images))
    assert sides == choose_val(images, fraction, seed)

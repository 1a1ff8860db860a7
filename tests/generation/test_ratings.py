"""generate ratings: instruction samples, their ratings for capabilities, and their styles."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmsieve
from mmsieve import GenerateOptions, RequestError
from mmsieve.cli import main
from mmsieve.generation.loop import read_answer
from mmsieve.generation.options import RatingsOptions
from mmsieve.generation.tasks import RequestItem, TeacherAnswerError
from mmsieve.generation.tasks.ratings import RatingTask
from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.synthetic.instructions import instruction
from tests.helpers.lessons import PROVIDERS, entries, generate, lines
from tests.helpers.shards import captions, image, read, write_jsonl, write_parquet, write_tar
from tests.helpers.teacher_protocols import Ask
from tests.helpers.teacher_server import Fault, Plan, TeacherServer
from tests.helpers.teaching import Generation, draw_number, read_number
from tests.helpers.well_behaved import good_answer, images, named, rated, words


def item(number: int, shown: int = 1, **more) -> dict:
    """An item with so many images."""
    names = [f"coco/{number}-{place}.png" for place in range(shown)]
    marks = "<image>\n" * shown
    said = [
        {"from": "human", "value": f"{marks}What is number {number:06d}?"},
        {"from": "gpt", "value": f"It is number {number:06d}."},
    ]
    found = {"id": f"s{number}", "image": names[0] if shown == 1 else names, "conversations": said}
    return found | more


@pytest.fixture
def pool(tmp_path):
    """Four items in a JSON list: with one image, two, none, and with one that is not there."""
    items = [item(1), item(2, 2), item(3, 0, image=None), item(4)]
    for place in ("1-0", "2-0", "2-1"):
        file = tmp_path / "images" / "coco" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image(sum(place.encode()), "PNG"))
    path = tmp_path / "qas.json"
    path.write_text(json.dumps(items))
    return path


def rate(server, pool, out, **options) -> mmsieve.GenerateReport:
    where = mmsieve.ReadOptions(images=pool.parent / "images")
    asked = {"what": "ratings", "count": 10, "read": where} | options
    return generate(server, pool, out=out, **asked)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_samples_are_rated_in_one_call_each(tmp_path, server, pool, provider):
    out = tmp_path / "out"
    report = rate(server, pool, out, provider=provider)
    assert report.failed == {}
    assert "3 rated samples in train.json" in report.summary()
    assert "the sources have 3 instruction samples for one each" in report.summary()
    assert [len(images(body)) for body in server.requests].count(2) == 1
    assert all(named(body) == list(CAPABILITIES) for body in server.requests)
    found = {entry["provenance"]["key"]: entry for entry in entries(out)}
    assert found.keys() == {"s1", "s2", "s3"}
    for number, entry in ((1, found["s1"]), (2, found["s2"]), (3, found["s3"])):
        assert entry["conversations"] == item(number, number % 3)["conversations"]
        assert entry["ratings"] == {name: n % 6 for n, name in enumerate(CAPABILITIES)}
        assert entry["reasons"]["ocr"] == "Because of ocr."
        assert entry["styles"] == ["yes/no", "short description"]  # in the order of the nine
    assert found["s1"]["image_source"] == "coco"
    assert "image" not in found["s3"]
    stored = [(out / name).read_bytes() for name in found["s2"]["image"]]
    assert stored == [(pool.parent / "images/coco" / f"2-{n}.png").read_bytes() for n in (0, 1)]
    assert len({entry["idx"] for entry in found.values()}) == 3
    (reject,) = lines(out / "rejects.jsonl")
    assert (reject["key"], reject["status"]) == ("s4", "image_missing")


def test_what_was_rated_is_an_instruction_source(tmp_path, server, pool):
    rate(server, pool, tmp_path / "out")
    again = read(tmp_path / "out" / "train.json", images=tmp_path / "out")
    assert again.statuses == ["ok", "ok", "ok"]
    assert sorted(len(sample.images) for sample in again.samples) == [0, 1, 2]
    assert all(sample.metadata["ratings"]["stem"] == 5 for sample in again.samples)


def test_jsonl_and_parquet_are_sources_too(tmp_path, server):
    table = tmp_path / "t.parquet"
    rows = [item(7), item(8)]
    columns = {
        "id": ["a", "b"],
        "image": [{"bytes": image(n, "PNG"), "path": None} for n in (1, 2)],
        "conversations": [row["conversations"] for row in rows],
    }
    write_parquet(table, columns)
    jsonl = write_jsonl(tmp_path / "lines.jsonl", [item(9, 0)])
    report = generate(server, table, jsonl, out=tmp_path / "out", what="ratings", count=3)
    assert report.failed == {}
    assert {entry["provenance"]["key"] for entry in entries(tmp_path / "out")} == {"a", "b", "s9"}


def test_capabilities_can_be_chosen_and_new_ones_named(tmp_path, server, pool):
    asked = {"rating": {"capabilities": "ocr,json=reading JSON files, stem"}}
    rate(server, pool, tmp_path / "out", **asked)
    assert named(server.requests[0]) == ["ocr", "json", "stem"]
    assert "`json`: reading JSON files" in words(server.requests[0])
    assert entries(tmp_path / "out")[0]["ratings"] == {"ocr": 0, "json": 1, "stem": 2}
    with pytest.raises(RequestError, match="was made with another"):
        rate(server, pool, tmp_path / "out")


def test_too_many_images_and_other_samples_are_named(tmp_path, server, pool):
    report = rate(server, pool, tmp_path / "out", max_images=1)
    assert report.written["train.json"] == 2
    rejects = {line["key"]: line["error"] for line in lines(tmp_path / "out" / "rejects.jsonl")}
    assert "images: 2, more than --max-images 1" in rejects["s2"]
    tar = write_tar(tmp_path / "pairs.tar", captions(2))
    with pytest.raises(RequestError, match="instruction samples are read"):
        generate(server, tar, out=tmp_path / "more", what="ratings", count=1)


BODY = {"messages": [{"content": [{"text": "- `spatial`: x\n- `ocr`: y"}]}]}
GOOD = rated(BODY)


def changed(**fields) -> dict:
    return {**GOOD, "ratings": {**GOOD["ratings"], "ocr": {"reason": "x", "rating": 1, **fields}}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (changed(rating=6), "ratings.ocr.rating"),
        (changed(rating=-1), "ratings.ocr.rating"),
        (changed(rating=2.5), "ratings.ocr.rating"),
        (changed(rating="3"), "ratings.ocr.rating"),
        (changed(rating=True), "ratings.ocr.rating"),
        (changed(reason="\n"), "it is empty"),
        ({**GOOD, "ratings": {}}, "ratings.spatial: Field required"),
        ({**GOOD, "ratings": {**GOOD["ratings"], "stem": {}}}, "ratings.stem: Extra"),
        ({**GOOD, "styles": []}, "at least one style"),
        ({**GOOD, "styles": ["yes/no", "yes/no"]}, "each once"),
        ({**GOOD, "styles": ["Yes/No"]}, "styles.0"),
        ({**GOOD, "styles": "yes/no"}, "styles"),
    ],
)
def test_an_answer_off_the_scale_can_t_be_used(fields, says):
    task = RatingTask(RatingsOptions(capabilities="spatial,ocr"))
    item = RequestItem("r1", "s", 0, "k", (), {"conversations": [], "image_source": None})
    with pytest.raises(TeacherAnswerError, match=says):
        read_answer(json.dumps(fields), task, item, "schema")
    assert read_answer(json.dumps(GOOD), task, item, "schema")["ratings"] == GOOD["ratings"]


def test_a_bad_answer_is_asked_for_again_then_rejected(tmp_path, server, pool):
    def answer(body):
        if len(images(body)) != 2:
            return good_answer(body)
        return json.dumps(rated(body) | {"styles": ["a haiku"]})

    server.answer = answer
    report = rate(server, pool, tmp_path / "out", attempts=2)
    assert report.written["train.json"] == 2
    reject = next(line for line in lines(tmp_path / "out" / "rejects.jsonl") if line["key"] == "s2")
    assert (reject["requests"], reject["status"]) == (2, "model_output_invalid")
    assert "styles.0" in reject["error"]


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_conversation_is_data_in_the_prompt_whatever_it_says(texts):
    task = RatingTask()
    said = [{"from": "human", "value": text} for text in texts]
    item = RequestItem("r1", "s", 0, "k", (), {"conversations": said, "image_source": None})
    prompt = task.load_prompts(None).compose(task.values(item), task.schema(), "schema")
    start = prompt.index("\n[\n")
    assert json.loads(prompt[start : prompt.index("\n]\n", start) + 2]) == said
    assert all(f"- `{style}`" in prompt for style in STYLES)


def test_a_batch_and_a_dry_run(tmp_path, server, pool):
    estimate = rate(server, pool, tmp_path / "out", dry_run=True)
    assert "3 instruction samples: 3 images of 4 samples, 1 more can't be used" in (
        estimate.summary()
    )
    assert "cost: about $" in estimate.summary()
    assert not server.requests
    report = rate(server, pool, tmp_path / "out", batch=True, poll=0.01)
    assert report.failed == {}
    assert len(entries(tmp_path / "out")) == 3


def stressed(ask: Ask) -> dict:
    """Ratings and reasons that tell the number that the image shows."""
    number = read_number(ask.images[0])
    ratings = {
        name: {"reason": f"number {number:06d}", "rating": number % 6} for name in CAPABILITIES
    }
    return {"ratings": ratings, "styles": [STYLES[number % 9]]}


def test_kills_among_faults_lose_nothing_and_mix_nothing_up(tmp_path):
    count = 80
    (tmp_path / "images" / "coco").mkdir(parents=True)
    for number in range(count):
        (tmp_path / "images" / "coco" / f"{number}-0.png").write_bytes(draw_number(number))
    pool = tmp_path / "qas.json"
    pool.write_text(json.dumps([item(number) for number in range(count)]))
    faults = {Fault.RATE_LIMIT: 0.05, Fault.WRONG_FIELDS: 0.05, Fault.CUT: 0.02}
    plan = Plan(seed=3, faults=faults, stubborn={Fault.REFUSAL: 0.03}, latency=0.01)
    options = ("--timeout", "2", "--max-retries", "8", "--images", str(tmp_path / "images"))
    with TeacherServer(stressed, plan) as server:
        made = Generation(
            server,
            "openai",
            pool,
            tmp_path / "out",
            count=count,
            what="ratings",
            concurrency=8,
            options=options,
        )
        for kill_at in (15, 45):
            assert made.run(lambda at=kill_at: server.answers >= at, seed=kill_at) == -9
        assert made.run() == 0, made.said[-1]
        stock = made.stock()
        keys = [record["provenance"]["key"] for record in stock.records]
        rejected = [reject["key"] for reject in stock.rejects]
        assert sorted(keys + rejected) == sorted(f"s{number}" for number in range(count))
        for record in stock.records:
            number = int(record["provenance"]["key"][1:])
            assert set(record["reasons"].values()) == {f"number {number:06d}"}
            assert set(record["ratings"].values()) == {number % 6}
            assert read_number((tmp_path / "out" / record["image"]).read_bytes()) == number
        assert sum(paid - 1 for paid in server.paid.values()) <= 2 * 8
        assert not server.refused
        assert not made.leaks()


def drawn(out, **options) -> mmsieve.GenerateReport:
    wanted = {"teacher": "rendered", "quiet": True} | options
    return mmsieve.generate_ratings(out=out, options=GenerateOptions(**wanted))


@pytest.mark.parametrize("family", ["core", "chart"])
def test_the_rendered_teacher_writes_rated_samples_and_a_pool(tmp_path, family):
    out = tmp_path / "out"
    report = drawn(out, count=60, seed=4, val_fraction=0.2, family=family)
    assert report.written == {"train.json": 48, "val.json": 12}
    found = {entry["id"]: entry for entry in entries(out)}
    pool = json.loads((out / "qas.json").read_text())
    assert [one["idx"] for one in pool] == list(range(60))
    for index, one in enumerate(pool):
        entry, made = found[one["id"]], instruction(4, index, family)
        assert not one.keys() & {"ratings", "reasons", "styles"}
        assert one == {name: entry[name] for name in one}
        assert entry["ratings"] == dict(made.ratings)
        assert list(entry["ratings"]) == list(entry["reasons"]) == list(CAPABILITIES)
        assert tuple(entry["styles"]) == made.styles
    again = read(out / "qas.json", images=out)
    assert again.statuses == ["ok"] * 60
    assert Counter(len(sample.images) for sample in again.samples).keys() <= {1, 2}
    sources = {sample.metadata["image_source"] for sample in again.samples}
    assert all(source.startswith("rendered_") for source in sources)
    assert "done before" in drawn(out, count=60, seed=4, val_fraction=0.2, family=family).summary()
    drawn(out, count=5, overwrite=True)
    assert len(json.loads((out / "qas.json").read_text())) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--teacher rendered --capabilities ocr", "--capabilities"),
        ("--teacher rendered --shards", "--shards"),
        ("--teacher rendered --family table", "--family table"),
        ("--teacher rendered --texts-per-image 1", "--texts-per-image"),
        ("qas.json --teacher openai:m --capabilities a_b=c", "a_b"),
        ("qas.json --teacher openai:m --capabilities medicine", "NAME=KEYWORD"),
        ("qas.json --teacher openai:m --capabilities ocr,ocr", "once"),
        ("qas.json --teacher openai:m --shards", "--shards"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "ratings", *words.split(), "--count", "4", "--out", str(tmp_path / "o")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "o").exists()

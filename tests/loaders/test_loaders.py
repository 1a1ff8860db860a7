"""What is written loads where people load it: `datasets` and TRL, in an environment of their own.

`make test-loaders` makes that environment and runs these; elsewhere they are skipped.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmsieve.cli import main
from tests.helpers.layouts import BUILDERS, COUNT, PICTURES, DrawnLayout, forms
from tests.helpers.shards import image, write_jsonl, write_parquet

PYTHON = os.environ.get("MMSIEVE_LOADERS")
pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="MMSIEVE_LOADERS names no Python: make test-loaders"),
    pytest.mark.slow,
]
KEPT = COUNT // 2


def run(*words: object) -> None:
    quiet = () if words[0] == "convert" else ("--quiet",)
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), *quiet])
    assert end.value.code == 0, words


def curate(drawn: DrawnLayout, folder: Path, verb: str, *words: object) -> Path:
    """Score or rate a source, keep half of it and export that; the folder of the export."""
    model = (
        ("unifilter-tiny",) if verb == "score" else ("mmssr-tiny-scorer", "--capabilities", "ocr")
    )
    images = () if drawn.images is None else ("--images", drawn.images)
    reads = tuple(w for n, v in drawn.reads.items() for w in (f"--{n.replace('_', '-')}", v))
    table, keep, out = folder / "table", folder / "keep", folder / "out"
    run(verb, drawn.source, "--model", *model, "--workers", 0, *images, *reads, "--out", table)
    by = "quality_score" if verb == "score" else "ocr"
    run("filter", table, "--by", by, "--top-count", KEPT, "--out", keep)
    run("export", drawn.source, "--decisions", keep, *images, *reads, "--out", out, *words)
    return out


def load(folder: Path, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the loaders find, one answer per request."""
    asked = [{"cache": str(folder / f"cache-{n}"), **one} for n, one in enumerate(requests)]
    script = Path(__file__).with_name("load.py")
    done = subprocess.run(
        [str(PYTHON), str(script)], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def drawn(layout: str, whose: str, folder: Path) -> DrawnLayout:
    (form,) = [form for form in forms() if form[0] == layout and form[1].startswith(whose)]
    return BUILDERS[form](folder)


JPEG = [8, 8, "JPEG"]


def test_tars_of_captions_load_as_webdataset_and_as_parquet(tmp_path):
    source = drawn("captions", "webdataset", tmp_path)
    tars = curate(source, tmp_path / "a", "score")
    rows = curate(source, tmp_path / "b", "score", "--format", "parquet")
    first, second = load(
        tmp_path,
        [
            {"loader": "webdataset", "path": str(tars), "files": "*.tar"},
            {"loader": "parquet", "path": str(rows), "files": "*.parquet"},
        ],
    )
    assert [row["jpg"] for row in first["rows"]] == [JPEG] * KEPT
    assert [row["image"] for row in second["rows"]] == [JPEG] * KEPT
    captions = [row["caption"] for row in second["rows"]]
    assert captions == [row["txt"] for row in first["rows"]]
    told = [json.loads(row["json"]) for row in second["rows"]]
    assert told == [row["json"] for row in first["rows"]]


def test_pictures_of_one_name_load_as_one_column(tmp_path):
    source = drawn("captions", "JSON lists", tmp_path)  # of JPEG and PNG
    named = curate(source, tmp_path / "a", "score", "--image-names", "jpg")
    anew = curate(source, tmp_path / "b", "score", "--image-names", "jpg", "--reencode")
    asked = [{"loader": "webdataset", "path": str(p), "files": "*.tar"} for p in (named, anew)]
    first, second = load(tmp_path, asked)
    assert [row["jpg"][:2] for row in first["rows"]] == [[8, 8]] * KEPT
    assert [row["jpg"] for row in second["rows"]] == [JPEG] * KEPT


def test_parquet_and_saved_folders_load_with_their_features(tmp_path):
    hub = curate(
        drawn("image-parquet", "the Hugging", tmp_path),
        tmp_path / "a",
        "score",
        "--format",
        "source",
    )
    saved = curate(
        drawn("image-parquet", "`save_to", tmp_path), tmp_path / "b", "score", "--format", "source"
    )
    first, second = load(
        tmp_path,
        [
            {"loader": "parquet", "path": str(hub), "files": "*.parquet"},
            {"loader": "saved", "path": str(saved)},
        ],
    )
    for found in (first, second):
        assert [row["image"] for row in found["rows"]] == [JPEG] * KEPT
    assert first["rows"][0].keys() == {"id", "image", "caption", "score"}


def test_imagefolders_load(tmp_path):
    source = drawn("captions", "Hugging Face's", tmp_path)
    out = curate(source, tmp_path / "a", "score", "--format", "source", "--with-images")
    (found,) = load(tmp_path, [{"loader": "imagefolder", "path": str(out)}])
    assert len(found["rows"]) == KEPT
    assert all(row["image"][:2] == [8, 8] and "circles" in row["text"] for row in found["rows"])


def test_documents_load(tmp_path):
    rows = curate(
        drawn("documents", "OBELICS with", tmp_path), tmp_path / "a", "score", "--format", "source"
    )
    (tmp_path / "t").mkdir()
    made = curate(
        drawn("documents", "MMC4 as", tmp_path / "t"),
        tmp_path / "b",
        "score",
        "--format",
        "parquet",
    )
    asked = [{"loader": "parquet", "path": str(p), "files": "*.parquet"} for p in (rows, made)]
    first, second = load(tmp_path, asked)
    assert len(first["rows"]) == KEPT
    for row in second["rows"]:
        assert row["images"] == [JPEG, None] and row["texts"][0] is None


def test_instructions_load_as_json_and_parquet(tmp_path):
    llava = curate(
        drawn("instructions", "LLaVA", tmp_path), tmp_path / "a", "rate", "--with-images"
    )
    vision = curate(drawn("instructions", "FineVision", tmp_path), tmp_path / "b", "rate")
    first, second = load(
        tmp_path,
        [
            {"loader": "json", "path": str(llava), "files": "mix.json", "images": str(llava)},
            {"loader": "parquet", "path": str(vision), "files": "*.parquet", "images": str(vision)},
        ],
    )
    assert [row["image"][:2] for row in first["rows"]] == [[8, 8]] * KEPT
    assert all(row["conversations"][0]["from"] == "human" for row in first["rows"])
    assert [row["images"][0][:2] for row in second["rows"]] == [[8, 8]] * KEPT
    assert all(row["texts"][0]["user"] == "What is it?" for row in second["rows"])


def _talk(number: int, as_parts: bool) -> list[dict[str, Any]]:
    asked, said = "What is it?", f"A square, and {number} circles."
    parts = [{"type": "image"}, {"type": "text", "text": asked}]
    return [
        {"role": "user", "content": parts if as_parts else asked},
        {"role": "assistant", "content": [{"type": "text", "text": said}] if as_parts else said},
    ]


@pytest.fixture(scope="module")
def stock_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled enhancer in the stock layout of its class, LLaVA."""
    out = tmp_path_factory.mktemp("stock") / "model"
    run("convert", "aitqe-tiny", "--out", out)
    return out


@pytest.mark.parametrize("form", ["messages", "prompt", "parquet"])
def test_trl_fine_tunes_on_what_is_kept(form, tmp_path, stock_model):
    pictures = tmp_path / PICTURES
    pictures.mkdir()
    for n in range(COUNT):
        (pictures / f"{n}.jpg").write_bytes(image(n, size=(64, 48)))
    if form == "parquet":
        cells = [
            [{"bytes": (pictures / f"{n}.jpg").read_bytes(), "path": None}] for n in range(COUNT)
        ]
        rows = {"messages": [_talk(n, False) for n in range(COUNT)], "images": cells}
        source = DrawnLayout(write_parquet(tmp_path / "mix.parquet", rows))
    else:
        talks = [_talk(n, False) for n in range(COUNT)]
        items = [
            {"messages": talk}
            if form == "messages"
            else {"prompt": talk[:1], "completion": talk[1:]}
            for talk in talks
        ]
        items = [item | {"images": [f"{n}.jpg"]} for n, item in enumerate(items)]
        source = DrawnLayout(write_jsonl(tmp_path / "mix.jsonl", items), images=pictures)
    more = () if form == "parquet" else ("--with-images",)
    out = curate(source, tmp_path / "a", "rate", *more)
    asked: dict[str, Any] = {"loader": "parquet" if form == "parquet" else "json", "path": str(out)}
    asked |= {"files": "mix.*", "images": str(out), "model": str(stock_model)}
    (found,) = load(tmp_path, [asked])
    assert [row["images"] for row in found["rows"]] == [[[64, 48, "JPEG"]]] * KEPT
    assert found["sft"]["labels"] > 0 and found["sft"]["loss"] > 0
    assert found["sft"]["shapes"]["pixel_values"][0] == 2

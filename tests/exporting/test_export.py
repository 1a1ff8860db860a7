import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.errors import RequestError
from mmsieve.exporting.samples import member_bytes, safe_key, sample_members
from mmsieve.read.tar import index_tar
from mmsieve.verbs.filter import CutOptions, filter
from tests.helpers.exports import (
    decide,
    kept_keys,
    key_of,
    make_two_tars,
    members,
    raw_members,
    read_wds,
    run,
)
from tests.helpers.shards import (
    captions,
    image,
    read,
    tar_bytes,
    write_jsonl,
    write_parquet,
    write_tar,
)
from tests.helpers.tables import read_decisions, score_sources

REFERENCE = os.environ.get("MMSIEVE_REFERENCE")


@pytest.fixture
def two_tars(tmp_path: Path) -> Path:
    return make_two_tars(tmp_path / "src")


def test_kept_members_are_the_same_to_the_byte(two_tars: Path, tmp_path: Path) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    report = run(two_tars, decisions=keep, out=tmp_path / "out")
    assert (report.samples, report.tars, report.failed) == (25, 2, {})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [t["name"] for t in manifest["tars"]] == ["00000.tar", "sub/00001.tar"]
    for entry in manifest["tars"]:
        source, copy = two_tars / entry["name"], tmp_path / "out" / entry["name"]
        kept = set(kept_keys(keep, entry["name"].removesuffix(".tar")))
        assert members(copy) == [m for m in members(source) if key_of(m[0]) in kept]
        originals = raw_members(source)
        assert all(originals[name] == raw for name, raw in raw_members(copy).items())
        data = copy.read_bytes()
        assert (entry["bytes"], entry["samples"]) == (len(data), len(kept))
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["sources"] == [entry["name"].removesuffix(".tar")]
        assert [s["__key__"] for s in read_wds(copy)] == [s.key for s in read(copy).samples]
    assert manifest["samples"] == 25
    assert manifest["bytes"] == report.bytes == sum(t["bytes"] for t in manifest["tars"])


def test_decisions_in_one_file(two_tars: Path, tmp_path: Path) -> None:
    folder = decide(two_tars, out=tmp_path / "keep")
    one = decide(two_tars, out=tmp_path / "keep.parquet")
    run(two_tars, decisions=folder, out=tmp_path / "a")
    run(two_tars, decisions=one, out=tmp_path / "b")
    for name in ("00000.tar", "sub/00001.tar", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_decisions_of_others_in_any_order(two_tars: Path, tmp_path: Path) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    rows = (
        read_decisions(keep).select("keep", "shard", "key").sample(fraction=1, shuffle=True, seed=1)
    )
    rows.write_parquet(tmp_path / "other.parquet", row_group_size=7)
    run(two_tars, decisions=keep, out=tmp_path / "a")
    run(two_tars, decisions=tmp_path / "other.parquet", out=tmp_path / "b")
    for name in ("00000.tar", "sub/00001.tar"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_decisions_of_a_merged_table(two_tars: Path, tmp_path: Path) -> None:
    """The table is one file, so the decisions' folder holds one file with all shards."""
    scores = score_sources(two_tars, out=tmp_path / "scores")
    merged = pl.concat([pl.read_parquet(p) for p in sorted(scores.rglob("*.parquet"))])
    (tmp_path / "merged").mkdir()
    merged.write_parquet(tmp_path / "merged" / "all.parquet")
    for name in ("scores", "merged"):
        cut = CutOptions(top_fraction=0.5)
        filter(str(tmp_path / name), out=tmp_path / f"keep-{name}", cut=cut, quiet=True)
        run(two_tars, decisions=tmp_path / f"keep-{name}", out=tmp_path / f"out-{name}")
    for name in ("00000.tar", "sub/00001.tar"):
        made = [(tmp_path / out / name).read_bytes() for out in ("out-scores", "out-merged")]
        assert made[0] == made[1]


def test_repacked(two_tars: Path, tmp_path: Path) -> None:
    keep = decide(two_tars, out=tmp_path / "keep", fraction=1.0)
    report = run(two_tars, decisions=keep, out=tmp_path / "out", shard_size=12)
    found = {
        p.name: [s["__key__"] for s in read_wds(p)]
        for p in sorted((tmp_path / "out").glob("*.tar"))
    }
    # 0000 ... 0019 are keys of both sources: no tar holds one twice
    assert [len(keys) for keys in found.values()] == [12, 12, 12, 12, 2]
    assert list(found) == [f"{n:08d}.tar" for n in range(5)]
    assert all(len(set(keys)) == len(keys) for keys in found.values())
    assert report.samples == 50
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [t["sources"] for t in manifest["tars"]][2] == ["00000", "sub/00001"]
    again = run(two_tars, decisions=keep, out=tmp_path / "out", shard_size=12)
    assert "exported before" in again.summary()
    with pytest.raises(RequestError, match="--overwrite"):
        run(two_tars, decisions=keep, out=tmp_path / "out", shard_size=40)
    run(two_tars, decisions=keep, out=tmp_path / "out", shard_size=40, overwrite=True)
    sizes = [len(read_wds(p)) for p in sorted((tmp_path / "out").glob("*.tar"))]
    assert sizes == [30, 20]  # closed early, before 0000 comes again


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=20,
).filter(lambda name: not name.startswith(".") and key_of(name))
CONTENTS = st.tuples(
    st.sampled_from(["jpg", "JPG", "txt", "json", "seg.png", "cls"]), st.binary(max_size=700)
)


@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from(["", "./", "f/", "d" * 120 + "/"]), CONTENTS), max_size=25
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(0, 3),
    st.none() | st.integers(1, 4),
)
@settings(max_examples=60)
def test_any_members_in_any_order_stay_the_same(
    found: list[tuple[str, str, tuple[str, bytes]]], format: int, kept_from: int, size: int | None
) -> None:
    """Unicode and long names, several members of a key anywhere, keys that come twice."""
    given_members = [(f"{at}{key_of(name)}.{kind}", data) for name, at, (kind, data) in found]
    if not given_members:
        return
    with TemporaryDirectory() as folder:
        source = Path(folder) / "src" / "a.tar"
        source.parent.mkdir()
        source.write_bytes(tar_bytes(given_members, format))
        expected = _samples(given_members)
        rows = {"key": list(expected), "shard": ["a"] * len(expected)}
        keep = [n % 4 != kept_from for n in range(len(expected))]
        pl.DataFrame({**rows, "keep": keep}).write_parquet(Path(folder) / "keep.parquet")
        out = Path(folder) / "out"
        report = run(
            source,
            decisions=Path(folder) / "keep.parquet",
            out=out,
            layout="captions",
            shard_size=size,
        )
        assert report.failed == {}
        copied = [m for path in sorted(out.glob("*.tar")) for m in members(path)]
        raw = {n: r for path in sorted(out.glob("*.tar")) for n, r in raw_members(path).items()}
        kept = [key for key, is_kept in zip(expected, keep, strict=True) if is_kept]
        assert copied == [m for key in kept for m in expected[key]]
        if len({name for name, _ in given_members}) == len(given_members):
            assert all(raw_members(source)[name] == data for name, data in raw.items())


def _samples(given_members: list[tuple[str, bytes]]) -> dict[str, list[tuple[str, bytes]]]:
    """Key -> its members, the first of each extension: what a second one belongs to is dropped."""
    samples: dict[str, list[tuple[str, bytes]]] = {}
    seen: set[tuple[str, str]] = set()
    for name, data in given_members:
        key = key_of(name)
        kind = name[len(key) + 1 :].lower()
        if (key, kind) not in seen:
            samples.setdefault(key, []).append((name, data))
            seen.add((key, kind))
    return samples


def test_members_out_of_order_come_together(tmp_path: Path) -> None:
    parts = captions(4)
    shuffled = [*parts[0::3], *parts[1::3], *parts[2::3]]
    write_tar(tmp_path / "src" / "a.tar", shuffled)
    keep = decide(tmp_path / "src", out=tmp_path / "keep", fraction=1.0)
    run(tmp_path / "src", decisions=keep, out=tmp_path / "out")
    assert members(tmp_path / "out" / "a.tar") == parts
    samples = read_wds(tmp_path / "out" / "a.tar")
    assert [s["__key__"] for s in samples] == ["0000", "0001", "0002", "0003"]
    assert all({"jpg", "txt", "json"} <= set(s) for s in samples)


def test_what_webdataset_writes(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with wds.TarWriter(str(tmp_path / "src" / "a.tar")) as writer:
        for number in range(9):
            key = f"f/\u00e9\u4e2d{number}"
            writer.write(
                {"__key__": key, "jpg": image(number), "txt": f"t{number}", "json": {"n": number}}
            )
    keep = decide(tmp_path / "src", out=tmp_path / "keep")
    run(tmp_path / "src", decisions=keep, out=tmp_path / "out")
    originals = {s["__key__"]: s for s in read_wds(tmp_path / "src" / "a.tar")}
    copies = read_wds(tmp_path / "out" / "a.tar")
    assert [s["__key__"] for s in copies] == kept_keys(keep)
    for copy in copies:
        original = originals[copy["__key__"]]
        assert all(copy[n] == original[n] for n in ("jpg", "txt", "json"))


def test_duplicates_are_not_copied(tmp_path: Path) -> None:
    first, second = captions(2), captions(1)
    write_tar(tmp_path / "src" / "a.tar", [*first, (second[0][0], image(9)), *second[1:]])
    keep = decide(tmp_path / "src", out=tmp_path / "keep", fraction=1.0)
    assert read_decisions(keep)["reason"].to_list() == [None, None, "duplicate_key"]
    run(tmp_path / "src", decisions=keep, out=tmp_path / "out")
    assert members(tmp_path / "out" / "a.tar") == first


def test_padding_that_is_cut_off(tmp_path: Path) -> None:
    """The last member is there, not all zeros after it."""
    data = tar_bytes(captions(2))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        last = archive.getmembers()[-1]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.tar").write_bytes(data[: last.offset_data + last.size])
    pl.DataFrame({"key": ["0000", "0001"], "shard": "a", "keep": True}).write_parquet(
        tmp_path / "keep.parquet"
    )
    report = run(tmp_path / "src", decisions=tmp_path / "keep.parquet", out=tmp_path / "out")
    assert members(tmp_path / "out" / "a.tar") in (captions(2), captions(1))
    assert list(report.failed) == ["a"]


def test_parquet_becomes_a_caption_tar(tmp_path: Path) -> None:
    images = [
        image(n, kind) for n, kind in enumerate(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
    ]
    write_parquet(
        tmp_path / "data.parquet",
        {
            "id": ["a.b", "../up", "/root", "x/y", "\u4e2d%", "z"],
            "image": [{"bytes": data, "path": "x.jpg"} for data in images],
            "caption": [f"text \u00e9 {n}" for n in range(6)],
            "score": [0.5, float("nan"), None, 1.0, 2.0, 3.0],
        },
    )
    source = tmp_path / "data.parquet"
    keep = decide(source, out=tmp_path / "keep", fraction=1.0)
    report = run(source, decisions=keep, out=tmp_path / "out")
    assert report.failed == {}
    (path,) = (tmp_path / "out").glob("*.tar")
    found = members(path)
    names = ["a%2Eb.jpg", "%2E%2E/up.png", "%2Froot.webp", "x/y.gif", "\u4e2d%25.bmp", "z.tif"]
    assert [name for name, _ in found[::3]] == names
    assert [data for _, data in found[::3]] == images
    assert [data.decode() for _, data in found[1::3]] == [f"text \u00e9 {n}" for n in range(6)]
    assert [json.loads(data)["id"] for _, data in found[2::3]] == [
        "a.b",
        "../up",
        "/root",
        "x/y",
        "\u4e2d%",
        "z",
    ]
    assert [json.loads(data)["score"] for _, data in found[2::3]] == [
        0.5,
        None,
        None,
        1.0,
        2.0,
        3.0,
    ]
    samples = read(path)
    assert samples.statuses == ["ok"] * 6
    assert [s.images[0].data for s in samples.samples] == images
    assert len(read_wds(path)) == 6


def test_mmc4_becomes_a_document_tar(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pictures = {f"p{n}.jpg": image(n) for n in range(3)}
    for name, data in pictures.items():
        (tmp_path / "images" / name).write_bytes(data)
    documents = [
        {
            "url": "u",
            "text_list": ["one", "two \u00e9", "three"],
            "image_info": [
                {"image_name": "p1.jpg", "matched_text_index": 2},
                {"image_name": "p0.jpg", "matched_text_index": 0},
                {"image_name": "gone.jpg", "matched_text_index": 1},
            ],
            "similarity_matrix": [[0.1, 0.2, 0.9], [0.8, 0.3, 0.1], [0.2, 0.7, 0.1]],
        },
        {"text_list": [], "image_info": [{"image_name": "p2.jpg", "matched_text_index": 0}]},
    ]
    source = write_jsonl(tmp_path / "docs.jsonl", documents)
    options = {"images": tmp_path / "images"}
    keep = decide(source, out=tmp_path / "keep", fraction=1.0, **options)
    report = run(source, decisions=keep, out=tmp_path / "out", **options)
    assert report.failed == {}
    (path,) = (tmp_path / "out").glob("*.tar")
    again, before = read(path), read(source, **options)
    assert [s.parts for s in again.samples] == [s.parts for s in before.samples]
    assert again.keys == before.keys
    metadata = [
        {**d.metadata, "mmc4_image_info": i["image_info"]}
        | {name: i[name] for name in i.keys() & {"similarity_matrix"}}
        for d, i in zip(before.samples, documents, strict=True)
    ]
    assert [s.metadata for s in again.samples] == metadata
    stored = {data for name, data in members(path) if name.endswith(".jpg")}
    assert stored == set(pictures.values())
    assert len(read_wds(path)) == 2


def test_names_that_leave_the_folder(tmp_path: Path) -> None:
    hostile = [
        ("../../evil.jpg", image()),
        ("../../evil.txt", b"x"),
        ("/abs.jpg", image()),
        ("/abs.txt", b"x"),
    ]
    write_tar(tmp_path / "src" / "a.tar", [*hostile, *captions(1)])
    pl.DataFrame({"key": ["../../evil", "/abs", "0000"], "shard": "a", "keep": True}).write_parquet(
        tmp_path / "keep.parquet"
    )
    report = run(tmp_path / "src", decisions=tmp_path / "keep.parquet", out=tmp_path / "out")
    assert report.failed == {}
    written = members(tmp_path / "out" / "a.tar")
    assert written == [
        ("%2E%2E/%2E%2E/evil.jpg", image()),
        ("%2E%2E/%2E%2E/evil.txt", b"x"),
        ("%2Fabs.jpg", image()),
        ("%2Fabs.txt", b"x"),
        *captions(1),
    ]
    assert read(tmp_path / "out" / "a.tar").keys == ["%2E%2E/%2E%2E/evil", "%2Fabs", "0000"]


def test_keys_become_safe_and_stay_different() -> None:
    keys = [
        "",
        "%",
        "a",
        "a.b",
        "a%2Eb",
        "..",
        ".",
        "/",
        "//",
        "a//b",
        "a/b",
        "/a",
        "a/",
        "\0",
        "\n",
        "\\",
    ]
    safe = [safe_key(key) for key in keys]
    assert len(set(safe)) == len(keys)
    for name in safe:
        assert key_of(f"{name}.jpg") == name
        assert not name.startswith("/")
        assert ".." not in name.split("/")
    assert safe_key("plain_Key-1/\u00e9") == "plain_Key-1/\u00e9"


@pytest.mark.skipif(not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of real data")
@pytest.mark.parametrize("kind", ["captions", "interleaved"])
def test_real_shards(kind: str, tmp_path: Path) -> None:
    source = Path(REFERENCE or "") / "data" / kind
    keep = decide(source, out=tmp_path / "keep", fraction=0.4)
    report = run(source, decisions=keep, out=tmp_path / "out")
    assert report.failed == {}
    copies = sorted((tmp_path / "out").glob("*.tar"))
    for copy in copies:
        originals = raw_members(source / copy.name)
        copied = raw_members(copy)
        assert all(originals[name] == raw for name, raw in copied.items())
        assert list(copied) == [name for name in originals if name in copied]
        keys = kept_keys(keep, copy.stem)
        assert [s["__key__"] for s in read_wds(copy)] == keys
        assert read(copy).keys == keys
    assert report.samples == len(kept_keys(keep))
    repacked = run(source, decisions=keep, out=tmp_path / "again", shard_size=37)
    assert repacked.samples == report.samples


def test_odd_names_and_pages_are_written(tmp_path):
    """Keys that a tar reader would pass over, and a page that is no image."""
    columns = {"id": ["__MACOSX/k", "plain"], "image": [image()] * 2, "text": ["a", "b"]}
    pairs = write_parquet(tmp_path / "pairs.parquet", columns)
    item = {"images": ["a.jpg", None, "b.jpg"], "texts": [None, "a", None]}
    (tmp_path / "a.jpg").write_bytes(image())
    (tmp_path / "b.jpg").write_bytes(b"<html>")
    pages = write_jsonl(tmp_path / "pages.jsonl", [item])
    for path, options in ((pairs, {}), (pages, {"images": tmp_path})):
        samples = read(path, **options).samples
        members = [member for sample in samples for member in sample_members(sample)]
        found = read(write_tar(tmp_path / "out.tar", members))
        assert found.statuses == ["ok"] * len(samples)
        assert [len(one.parts) for one in found.samples] == [len(one.parts) for one in samples]


def test_a_rewritten_sample_keeps_the_bytes_of_its_name(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, data in [("\u00e9t\u00e9.jpg", image()), ("\u00e9t\u00e9.txt", b"old")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with path.open("rb") as file:
        (group,) = index_tar(file).groups
    assert group.key == "\\xe9t\\xe9"
    made = member_bytes(f"{group.name}.txt", b"new")
    with tarfile.open(fileobj=io.BytesIO(made + bytes(1024))) as archive:
        assert archive.getnames() == [f"{group.name}.txt"]
    with tarfile.open(path) as archive:
        assert archive.getnames() == [f"{group.name}.jpg", f"{group.name}.txt"]

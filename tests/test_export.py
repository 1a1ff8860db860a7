import hashlib
import json
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import captions, image, read, tar_bytes, write_jsonl, write_parquet, write_tar
from tables import read_decisions, score_sources
from webdataset import tariterators

from mmsieve.errors import RequestError
from mmsieve.pack import exporting
from mmsieve.pack.members import safe_key
from mmsieve.read import ReadOptions
from mmsieve.verbs.export import ExportOptions, ExportReport, export
from mmsieve.verbs.filter import CutOptions, filter_tables

REFERENCE = os.environ.get("MMSIEVE_REFERENCE")


def decide(*sources: Path, out: Path, fraction: float = 0.5, **options: Any) -> Path:
    """Score and filter sources; returns the decisions."""
    scores = score_sources(*sources, out=out.parent / f"{out.name}-scores", **options)
    filter_tables(str(scores), out=out, cut=CutOptions(top_fraction=fraction), quiet=True)
    return out


def run(*sources: Path, decisions: Path, out: Path, **options: Any) -> ExportReport:
    reading = {n: options.pop(n) for n in ("images", "image_column", "layout") if n in options}
    return export(
        *map(str, sources),
        decisions=decisions,
        out=out,
        read=ReadOptions(**reading),
        run=ExportOptions(quiet=True, **options),
    )


def members(path: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of a tar's members, in order."""
    with tarfile.open(path) as archive:
        files = [info for info in archive if info.isreg()]
        return [(info.name, archive.extractfile(info).read()) for info in files]  # type: ignore[union-attr]


def raw_members(path: Path) -> dict[str, bytes]:
    """Name -> a member's blocks, its header included."""
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        ends = [(i.name, i.offset, i.offset_data + -(-i.size // 512) * 512) for i in archive]
    return {name: data[start:stop] for name, start, stop in ends}


def kept_keys(decisions: Path, shard: str | None = None) -> list[str]:
    rows = read_decisions(decisions).filter("keep")
    return rows.filter(pl.lit(True) if shard is None else pl.col("shard") == shard)["key"].to_list()


def key_of(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def read_wds(path: Path) -> list[dict[str, Any]]:
    """The samples as the webdataset package finds them; it leaves closing the file to others."""
    with path.open("rb") as file:
        found = tariterators.tar_file_expander([{"url": str(path), "stream": file}])
        return [dict(sample) for sample in tariterators.group_by_keys(found)]


@pytest.fixture
def two_tars(tmp_path: Path) -> Path:
    write_tar(tmp_path / "src" / "00000.tar", captions(30))
    write_tar(tmp_path / "src" / "sub" / "00001.tar", captions(20))
    return tmp_path / "src"


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
        filter_tables(str(tmp_path / name), out=tmp_path / f"keep-{name}", cut=cut, quiet=True)
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
@settings(max_examples=60, deadline=None)
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


def test_a_tar_that_is_cut_off(two_tars: Path, tmp_path: Path) -> None:
    path = two_tars / "00000.tar"
    path.write_bytes(path.read_bytes()[:20000])
    keep = decide(two_tars, out=tmp_path / "keep", fraction=1.0)
    report = run(two_tars, decisions=keep, out=tmp_path / "out")
    assert list(report.failed) == ["00000"]
    assert "unexpected end" in report.failed["00000"]
    copied = members(tmp_path / "out" / "00000.tar")
    assert copied == captions(30)[: len(copied)]
    assert len(copied) >= 3
    assert len(read_wds(tmp_path / "out" / "sub" / "00001.tar")) == 20
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["failed"]) == ["00000"]
    again = run(two_tars, decisions=keep, out=tmp_path / "out")
    assert list(again.failed) == ["00000"]  # done again, and failed again
    assert "resumed: 1 " in again.summary()


def test_padding_that_is_cut_off(tmp_path: Path) -> None:
    """The last member is there, not all zeros after it."""
    data = tar_bytes(captions(2))
    with tarfile.open(fileobj=__import__("io").BytesIO(data)) as archive:
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
        for d, i in zip(before.samples, documents, strict=True)
    ]
    assert [s.metadata for s in again.samples] == metadata
    stored = {data for name, data in members(path) if name.endswith(".jpg")}
    assert stored == set(pictures.values())
    assert len(read_wds(path)) == 2


def test_a_killed_export_goes_on(
    two_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    run(two_tars, decisions=keep, out=tmp_path / "whole")
    write, written = exporting.write_tar, []

    def dies_in_the_second(folder: Path, name: str, *rest: Any) -> Any:
        written.append(name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write(folder, name, *rest)

    monkeypatch.setattr(exporting, "write_tar", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(two_tars, decisions=keep, out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    report = run(two_tars, decisions=keep, out=tmp_path / "out", workers=1)
    assert "resumed: 1 " in report.summary()
    assert written == ["00000.tar", "sub/00001.tar", "sub/00001.tar"]
    for name in ("00000.tar", "sub/00001.tar", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    run(two_tars, decisions=keep, out=tmp_path / "out")
    assert len(written) == 3
    (tmp_path / "out" / "00000.tar").unlink()
    run(two_tars, decisions=keep, out=tmp_path / "out")
    assert written[3:] == ["00000.tar"]


def test_a_journal_line_half_written(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    run(two_tars, decisions=keep, out=out)
    journal = out / ".export.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    report = run(two_tars, decisions=keep, out=out)
    assert "resumed: 1 " in report.summary()
    assert "resumed: 2 " in run(two_tars, decisions=keep, out=out).summary()


def test_other_decisions_need_overwrite(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    run(two_tars, decisions=keep, out=out)
    few = decide(two_tars, out=tmp_path / "few", fraction=0.02)
    before = (out / "00000.tar").read_bytes()
    with pytest.raises(RequestError, match="--overwrite"):
        run(two_tars, decisions=few, out=out)
    assert (out / "00000.tar").read_bytes() == before
    report = run(two_tars, decisions=few, out=out, overwrite=True)
    assert report.samples == 1
    assert len(list(out.rglob("*.tar"))) == 1  # none for a shard that keeps nothing
    assert "resumed: 2 " in run(two_tars, decisions=few, out=out).summary()


def test_trial_run(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    report = run(two_tars, decisions=keep, out=out, limit=4)
    assert report.samples == 4
    assert json.loads((out / "manifest.json").read_text())["limit"] == 4
    assert [s.key for s in read(out / "00000.tar").samples] == kept_keys(keep)[:4]
    with pytest.raises(RequestError, match="--overwrite"):
        run(two_tars, decisions=keep, out=out)
    assert run(two_tars, decisions=keep, out=out, overwrite=True).samples == 25


def test_dry_run_writes_nothing(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    count = len(kept_keys(keep, "00000"))
    report = run(two_tars, decisions=keep, out=out, dry_run=True)
    assert f"to do 00000: {count} samples" in report.summary()
    assert not out.exists()


def test_sources_that_do_not_fit_the_decisions(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    write_tar(two_tars / "new.tar", captions(1))
    with pytest.raises(RequestError, match="none for 1 of 3 shards, the first is new"):
        run(two_tars, decisions=keep, out=out)
    assert not out.exists()
    (two_tars / "new.tar").unlink()
    (two_tars / "sub" / "00001.tar").unlink()
    report = run(two_tars / "00000.tar", decisions=keep, out=out)
    assert "isn't among the SOURCEs" in report.failed["sub/00001"]
    assert len(read_wds(out / "00000.tar")) == len(kept_keys(keep, "00000"))
    write_tar(two_tars / "00000.tar", captions(9))
    report = run(two_tars, decisions=keep, out=tmp_path / "out2")
    assert "score it again" in report.failed["00000"]


def test_kept_samples_that_are_not_there(two_tars: Path, tmp_path: Path) -> None:
    rows = {"key": ["0000", "nope", "nor this"], "shard": "00000", "keep": True}
    more = pl.DataFrame({"key": ["0001"], "shard": "sub/00001", "keep": False})
    pl.concat([pl.DataFrame(rows), more]).write_parquet(tmp_path / "keep.parquet")
    report = run(two_tars, decisions=tmp_path / "keep.parquet", out=tmp_path / "out")
    assert report.failed == {"00000": "2 kept samples aren't in it, the first is 'nope'"}
    assert [s.key for s in read(tmp_path / "out" / "00000.tar").samples] == ["0000"]


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
    assert "is no name to write" in report.failed["a"]
    assert members(tmp_path / "out" / "a.tar") == captions(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "--shard-size 0: must be at least 1"),
        ({"limit": -1}, "--limit -1: must be at least 1"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"images": Path("nope")}, "--images"),
        ({"decisions": Path("nope")}, "no decisions there"),
    ],
)
def test_wrong_requests(
    options: dict[str, Any], message: str, two_tars: Path, tmp_path: Path
) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    with pytest.raises(RequestError, match=message):
        run(two_tars, **{"decisions": keep, "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_places_where_nothing_may_be_written(two_tars: Path, tmp_path: Path) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    for out in (two_tars, two_tars / "out"):
        with pytest.raises(RequestError, match="is in the SOURCE"):
            run(two_tars, decisions=keep, out=out)
    tars = two_tars / "00000.tar", two_tars / "sub" / "00001.tar"
    before = [path.read_bytes() for path in tars]
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="isn't an export's"):
            run(*tars, decisions=keep, out=two_tars, overwrite=overwrite)
    assert [path.read_bytes() for path in tars] == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RequestError, match="--out"):
        run(two_tars, decisions=keep, out=tmp_path / "file")


def test_what_is_no_decision(two_tars: Path, tmp_path: Path) -> None:
    scores = score_sources(two_tars, out=tmp_path / "scores")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_bytes(b"x")
    for path, message in (
        (scores, "no column keep"),
        (tmp_path / "empty", "no decisions there"),
        (tmp_path / "x.parquet", "can't be read"),
    ):
        with pytest.raises(RequestError, match=message):
            run(two_tars, decisions=path, out=tmp_path / "out")


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

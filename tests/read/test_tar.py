"""Tars: every oddity has a defined outcome, a row with a reason or a named shard."""

import io
import json
import os
import pickle
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.errors import RequestError, ShardError
from mmsieve.read import ReadOptions
from mmsieve.read import tar as tar_module
from mmsieve.read.layouts import LayoutError
from mmsieve.read.shards import open_shard
from mmsieve.read.tar import index_tar, read_records
from mmsieve.sample import Image, Text
from mmsieve.sources import Shard
from tests.helpers.shards import caption, captions, image, read, tar_bytes, write_tar

REFERENCE = os.environ.get("MMSIEVE_REFERENCE")


def read_bytes(data: bytes) -> tuple[dict[str, dict[str, bytes]], str | None]:
    """Key -> members of the records in a tar that aren't duplicates, and what cut it short."""
    file = io.BytesIO(data)
    records: dict[str, dict[str, bytes]] = {}
    try:
        for record in read_records(file, index_tar(file)):
            if record.problem is None:
                records[record.key] = record.fields
    except ShardError as error:
        return records, str(error)
    return records, None


def one_member(**fields) -> bytes:
    """The header of a member with odd fields."""
    info = tarfile.TarInfo(fields.pop("name", "a.jpg"))
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def test_captions(tmp_path):
    found = read(write_tar(tmp_path / "a.tar", captions(3)))
    assert found.statuses == ["ok"] * 3 and not found.problems
    sample = found.samples[1]
    assert sample.key == sample.uid == "0001" and sample.kind == "caption"
    assert sample.parts == (Image(image(sum(b"0001"))), Text("Square number 1."))


def test_members_are_byte_ranges():
    data = tar_bytes([*caption("a"), ("b" * 150 + ".jpg", b"1234"), ("é.txt", b"x" * 600)])
    groups = index_tar(io.BytesIO(data)).groups
    members = [member for group in groups for member in group.members.values()]
    assert [m.start for m in members] == [0, *(m.stop for m in members[:-1])]
    copied = b"".join(data[m.start : m.stop] for m in reversed(members))
    assert read_bytes(copied + bytes(1024)) == read_bytes(data)


@pytest.mark.parametrize("count", [1, 3])
def test_cut_at_every_byte(count):
    members = captions(count)
    data = tar_bytes(members)
    whole, problem = read_bytes(data)
    assert problem is None and len(whole) == count
    marker = -(-len(data.rstrip(b"\0")) // 512) * 512 + 512
    for cut in range(marker + 513):
        found, problem = read_bytes(data[:cut])
        assert list(found.items()) == list(whole.items())[: len(found)], cut
        assert (problem is None) == (cut >= marker), cut
    assert len(read_bytes(data[: marker - 512])[0]) == (count if count > 1 else 0)


@settings(max_examples=150)
@given(st.data())
def test_cut_anywhere_leaves_whole_samples(data):
    names = data.draw(st.lists(st.text("ab/é", min_size=1, max_size=120), unique=True, max_size=4))
    names = [n for n in names if not n.endswith("/") and not n.startswith("/")]
    texts = data.draw(st.lists(st.binary(max_size=700), min_size=8, max_size=8))
    members = [(f"{n}.{e}", texts.pop()) for n in names for e in ("jpg", "txt")]
    format = data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    whole = tar_bytes(members, format)
    expected, problem = read_bytes(whole)
    assert problem is None and len(expected) == len(set(names))
    cut = data.draw(st.integers(0, len(whole)))
    found, problem = read_bytes(whole[:cut])
    assert list(found.items()) == list(expected.items())[: len(found)]
    assert problem is not None or found == expected


@settings(max_examples=200)
@given(
    st.binary(max_size=2000), st.integers(0, 3000), st.sampled_from([b"", tar_bytes(captions(1))])
)
def test_no_bytes_raise_anything_else(noise, at, whole):
    read_bytes(whole[:at] + noise + whole[at + len(noise) :])


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_no_flipped_bytes_raise_anything_else(rng, flips):
    data = bytearray(tar_bytes([("a" * 120 + ".txt", b"long"), *caption("b")], tarfile.PAX_FORMAT))
    for _ in range(flips):
        data[rng.randrange(2048)] = rng.randrange(256)
    for start in range(0, 4096, 512):  # a valid checksum, so that what is odd gets through
        block = data[start : start + 512]
        checksum = 256 + sum(block[:148]) + sum(block[156:])
        data[start + 148 : start + 156] = b"%06o\0 " % (checksum % 8**6)
    read_bytes(bytes(data))


def test_corrupt_header_in_the_middle_is_named(tmp_path):
    data = bytearray(tar_bytes(captions(3)))
    start = index_tar(io.BytesIO(data)).groups[1].members["txt"].start
    data[start : start + 20] = b"\xff" * 20
    (tmp_path / "a.tar").write_bytes(data)
    found = read(tmp_path / "a.tar")
    assert found.keys == ["0000"]
    assert found.problems == [f"unreadable from byte {start} of {len(data)}: no valid header there"]


def test_joined_archives_are_named():
    found, problem = read_bytes(tar_bytes(captions(2)) + tar_bytes(captions(1)))
    assert len(found) == 2 and "data after the end-of-archive marker" in (problem or "")


@pytest.mark.parametrize("ends", [512, 1024, 1 << 21])
def test_empty_blocks_are_an_end(ends):
    data = tar_bytes(captions(1)).rstrip(b"\0")
    data += bytes(-len(data) % 512)
    assert read_bytes(data + bytes(ends))[1] is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"\x1f\x8b\x08" + b"x" * 600, "can't be unpacked"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "can't be unpacked"),
        (b"<html>not found</html>", "not a tar archive"),
        (b"x" * 4000, "not a tar archive"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, data, message):
    (tmp_path / "a.tar").write_bytes(data)
    assert message in read(tmp_path / "a.tar").problems[0]


def test_no_members_are_no_rows(tmp_path):
    assert read(write_tar(tmp_path / "a.tar", [])) == ([], [], [], [])


@pytest.mark.parametrize("size", [-512, -1, 1 << 62])
def test_impossible_sizes_end_the_shard(size):
    _, problem = read_bytes(tar_bytes(caption("a"))[:-9216] + one_member(size=size))
    assert problem is not None


def test_a_header_may_not_claim_gigabytes():
    header = one_member(type=tarfile.XHDTYPE, size=1 << 30)
    assert (
        read_bytes(header + bytes(4096))[1] == "not a tar archive: a header of 1,073,741,824 bytes"
    )


def test_order_of_members_does_not_matter():
    members = [m for n in range(6) for m in [*caption(f"k{n}"), (f"k{n}.png", b"second image")]]
    expected = read_bytes(tar_bytes(members))[0]
    for seed in range(20):
        random.Random(seed).shuffle(members)
        found, problem = read_bytes(tar_bytes(members))
        assert found == expected and problem is None


def test_the_image_does_not_depend_on_the_order(tmp_path):
    for members in [[("a.png", b"p"), ("a.jpg", b"j")], [("a.jpg", b"j"), ("a.png", b"p")]]:
        path = write_tar(tmp_path / "a.tar", [*members, ("a.txt", b"t")])
        assert read(path).samples[0].images == (Image(b"j"),)


def test_duplicates_are_rows_and_the_first_wins(tmp_path):
    again = [[(name, data + b" ") for name, data in caption("a", t)] for t in ("2nd", "3rd")]
    found = read(
        write_tar(tmp_path / "a.tar", [*caption("a"), *again[0], *caption("b"), *again[1]])
    )
    assert found.keys == ["a", "a", "b", "a"]
    assert found.statuses == ["ok", "duplicate_key", "ok", "duplicate_key"]
    assert found.samples[0].parts[1] == Text("A red square.")


def test_many_duplicates_take_no_square_of_time():
    file = io.BytesIO(tar_bytes([("a.txt", b"")] * 5000))
    assert len(index_tar(file).groups) == 5000


def test_missing_members(tmp_path):
    whole = {n.partition(".")[2]: (n, d) for n, d in caption("a")}
    for missing, status in [("jpg", "image_missing"), ("txt", "text_missing"), ("json", "ok")]:
        rest = [member for name, member in whole.items() if name != missing]
        path = write_tar(tmp_path / "a.tar", [*rest, *caption("b")])
        assert read(path).statuses == [status, "ok"]


@pytest.mark.parametrize(
    "extension", ["jpg", "JPG", "Jpeg", "png", "webp", "gif", "bmp", "tif", "TIFF"]
)
def test_image_extensions(tmp_path, extension):
    path = write_tar(tmp_path / "a.tar", [(f"a.{extension}", b"x"), ("a.TXT", b"t")])
    assert read(path).statuses == ["ok"]


def test_unknown_extensions_are_no_images(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.mp4", b"x"), ("a.mask.png", b"x"), ("a.txt", b"t")])
    assert read(path).statuses == ["image_missing"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(
    "key", ["ключ-😀", "a" * 240, "d" * 90 + "/" + "ü" * 90, "./a", "a.b/c", "/a"]
)
def test_odd_keys(key, format):
    found, problem = read_bytes(tar_bytes(caption(key), format))
    assert list(found) == [key] and problem is None


def test_a_name_that_is_not_utf8_keeps_its_bytes():
    data = tar_bytes([("ab\udcff.jpg", b"")], tarfile.GNU_FORMAT)
    assert list(read_bytes(data)[0]) == ["ab\\xff"]


def test_what_is_no_member_of_a_sample_is_left_alone(tmp_path):
    names = ["LICENSE", "._a.jpg", "d/._a.jpg", ".DS_Store", "__MACOSX/a.jpg"]
    found = read(write_tar(tmp_path / "a.tar", [*((n, b"x") for n in names), *caption("a")]))
    assert found.keys == ["a"] and found.statuses == ["ok"]


def test_folders_links_and_devices_are_left_alone():
    kinds = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
    odd = b"".join(one_member(type=kind, linkname="x") for kind in kinds)
    found, problem = read_bytes(odd + tar_bytes(caption("b")))
    assert list(found) == ["b"] and problem is None


def test_zero_size_members(tmp_path):
    empty = [(name, b"") for name, _ in caption("a")]
    assert read(write_tar(tmp_path / "a.tar", empty)).statuses == ["ok"]
    sample = read(write_tar(tmp_path / "a.tar", empty[:2])).samples[0]
    assert sample.parts == (Image(b""), Text(""))


def test_a_member_too_large_to_read_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_module, "MAX_BYTES", 1000)
    large = bytes(1001)
    members = [("a.jpg", large), ("b.txt", large), ("c.json", large), ("d.mp4", large)]
    found = read(write_tar(tmp_path / "a.tar", [*members, *caption("e")]))
    reasons = ["image_too_large", "text_undecodable", "json_invalid", "image_missing", "ok"]
    assert found.statuses == reasons


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", bytes(5000)), ("a.txt", b""), *caption("b")])
    with path.open("r+b") as file:
        index = index_tar(file)
        file.truncate(2000)
        with pytest.raises(ShardError, match="changed"):
            list(read_records(file, index))


def test_layouts_are_recognised_and_checked(tmp_path):
    document = json.dumps({"texts": ["a"], "image_info": [None]}).encode()
    papers = write_tar(tmp_path / "d" / "a.tar", [("a.json", document)])
    pairs = write_tar(tmp_path / "c" / "a.tar", [("a.json", b"broken"), *caption("b")])
    neither = write_tar(tmp_path / "n" / "a.tar", [("a.mp4", b"")])
    assert [s.kind for s in read(papers).samples + read(pairs).samples] == ["document", "caption"]
    for path, layout in [(papers, "captions"), (pairs, "documents"), (neither, None)]:
        with pytest.raises(RequestError) as error:
            read(path, layout=layout)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    halves = write_tar(tmp_path / "h" / "a.tar", [("a.jpg", b""), ("b.txt", b"")])
    assert read(halves).statuses == ["text_missing", "image_missing"]
    assert read(neither, layout="captions").statuses == ["image_missing"]
    with pytest.raises(RequestError, match=r"for \.parquet, \.arrow files"):
        read(papers, layout="image-parquet")


def test_captions_whose_metadata_has_texts_stay_captions(tmp_path):
    path = write_tar(tmp_path / "a.tar", caption("a", texts=["other caption"]))
    assert read(path).samples[0].kind == "caption"


def test_one_broken_tar_does_not_stop_the_request(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    (tmp_path / "b.tar").write_bytes(b"broken")
    write_tar(tmp_path / "c.tar", captions(1))
    found = read(tmp_path)
    assert len(found.samples) == len(found.problems) == 1


def test_a_file_that_is_gone_is_the_shards_failure(tmp_path):
    shard = Shard(str(tmp_path / "gone.tar"), "gone", 1)
    with pytest.raises(ShardError, match="No such file"), open_shard(shard, ReadOptions()):
        pass


def test_errors_of_the_reader_are_not_mistaken_for_the_shards(tmp_path):
    shard = Shard(str(write_tar(tmp_path / "a.tar", captions(1))), "a", 1)
    with pytest.raises(OSError, match="disk full"), open_shard(shard, ReadOptions()):
        raise OSError("disk full")


def test_limit(tmp_path):
    shard = Shard(str(write_tar(tmp_path / "a.tar", captions(5))), "a", 1, limit=2)
    with open_shard(shard, ReadOptions()) as reader:
        assert reader.count == len(list(reader.records)) == 2


def test_records_and_parsers_travel_to_worker_processes(tmp_path):
    shard = Shard(str(write_tar(tmp_path / "a.tar", [*caption("a"), *caption("a")])), "a", 1)
    with open_shard(shard, ReadOptions()) as reader:
        parse = pickle.loads(pickle.dumps(reader.parse))
        first, second = pickle.loads(pickle.dumps(list(reader.records)))
    assert parse(first).key == "a" and second.problem.status == "duplicate_key"
    assert isinstance(pickle.loads(pickle.dumps(LayoutError("x"))), LayoutError)


def test_what_webdataset_writes_is_read(tmp_path):
    wds = pytest.importorskip("webdataset")
    samples = [{"__key__": f"d.x/{n:03d}", "jpg": image(n), "txt": f"t{n}"} for n in range(20)]
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for sample in samples:
            writer.write(sample)
    found = read(tmp_path / "a.tar")
    expected = [(s["__key__"], (Image(s["jpg"]), Text(s["txt"]))) for s in samples]
    assert [(s.key, s.parts) for s in found.samples] == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=60)
@given(st.lists(st.text("ab./é-_ A", min_size=1, max_size=20), unique=True, max_size=6))
def test_keys_are_those_of_webdataset(names):
    tariterators = pytest.importorskip("webdataset.tariterators")
    names = [n for n in names if not any(p.startswith(".") for p in n.split("/"))]
    data = tar_bytes((name, b"x") for name in names)
    files = tariterators.tar_file_iterator(io.BytesIO(data), skip_meta=None)
    expected: dict[str, set[str]] = {}
    for file in files:
        key, extension = tariterators.base_plus_ext(file["fname"])
        if key is not None and not key.endswith("/"):
            expected.setdefault(key, set()).add(extension.lower())
    found, problem = read_bytes(data)
    assert {key: set(members) for key, members in found.items()} == expected
    assert problem is None


@pytest.mark.skipif(not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of data")
def test_every_real_shard_is_read():
    root = Path(REFERENCE or "")
    paths = sorted([*root.glob("data/**/*.tar"), *root.glob("reference/unifilter/inputs/**/*.tar")])
    assert len(paths) > 20
    counts = {}
    for path in paths:
        found = read(path)
        with tarfile.open(path) as archive:
            keys = {member.name.partition(".")[0] for member in archive}
        assert set(found.keys) == keys and not found.problems
        counts[path.parent.name] = counts.get(path.parent.name, 0) + found.statuses.count("ok")
    assert (counts["captions"], counts["interleaved"]) == (1493 + 12, 116)

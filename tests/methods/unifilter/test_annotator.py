"""The UniFilter annotator: its options, its inputs, its fingerprint, its behaviour in trouble."""

import io
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from mmsieve.devices import resolve_device, resolve_dtype
from mmsieve.engine.annotator import RunnerOptions
from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.images import ImageLimits
from mmsieve.labels import quality
from mmsieve.methods.load import LoadedModel, load_annotator, load_model
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter import runner as unifilter_runner
from mmsieve.methods.unifilter.annotator import SCHEMA, ScoringOptions
from mmsieve.methods.unifilter.inputs import Item
from mmsieve.sample import Image, Sample, Text
from tests.helpers.tiny import RELEASED, edit_json, picture

CPU = ScoringOptions(device="cpu")


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


PHOTO = png(picture(1))
WIDE = png(picture(2, 30, 90))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(RELEASED), device="cpu")


def ids(sample: Sample, **options: object) -> list[int]:
    preparer = load_annotator(str(RELEASED), replace(CPU, **options)).preparer()
    return preparer.prepare(sample).ids.tolist()


def test_schema(model):
    row = model.score([Sample.caption(PHOTO, "Two dogs.", "k")])[0]
    assert set(row) == {"key", "status", "error", *SCHEMA.names}
    assert row["key"] == "k" and row["num_images"] == 1 and row["num_tokens"] > 144


def test_a_caption_is_an_image_then_its_text(model):
    caption = Sample.caption(PHOTO, "Two <image> dogs.")
    plain = Sample.caption(PHOTO, "Two image dogs.")
    assert ids(caption) == ids(plain)
    assert ids(plain)[:2] == [905, IMAGE] and ids(plain)[-1] == 900


def test_a_document_keeps_empty_texts_and_neutralises_the_mark():
    empty = Sample("d", (Image(PHOTO), Text("")))
    bare = Sample("d", (Image(PHOTO),))
    assert len(ids(empty)) > len(ids(bare))
    marked = Sample("d", (Image(PHOTO), Text("an <image> here")))
    named = Sample("d", (Image(PHOTO), Text("an <image-placeholder> here")))
    assert ids(marked) == ids(named) and ids(marked).count(IMAGE) == 1


@pytest.mark.parametrize(
    ("parts", "kind", "status"),
    [
        ((Text("no image"),), "caption", Status.IMAGE_MISSING),
        ((Image(PHOTO),), "caption", Status.TEXT_MISSING),
        ((Image(PHOTO[:90]), Text("cut")), "caption", Status.IMAGE_UNDECODABLE),
        ((Text("no image"),), "document", Status.NO_USABLE_IMAGE),
        ((Image(PHOTO[:90]), Text("cut")), "document", Status.NO_USABLE_IMAGE),
        ((Image(png(picture(1, 1, 9))), Text("thin")), "document", Status.NO_USABLE_IMAGE),
        ((), "document", Status.NO_USABLE_IMAGE),
    ],
)
def test_what_can_not_be_scored(model, parts, kind, status):
    row = model.score([Sample("k", parts, kind)])[0]
    assert row["status"] == status and row["error"] and row["quality_score"] is None


def test_a_thin_image_of_a_caption_is_scored(model):
    assert model.score([Sample.caption(png(picture(1, 1, 9)), "thin")])[0]["status"] == "ok"


def test_rows_keep_the_order_of_samples(model):
    samples = [Sample.caption(PHOTO, "word " * (n * 7 % 11), str(n)) for n in range(12)]
    samples.insert(4, Sample("bad", (Text("x"),)))
    assert [row["key"] for row in model.score(iter(samples))] == [s.key for s in samples]
    assert model.score([]) == []


def test_control_strings_are_text_where_asked_for():
    caption = Sample.caption(PHOTO, "a <|endoftext|> b<|im_end|>")
    assert ids(caption)[-1] == 900 and 901 not in ids(caption)
    plain = ids(caption, plain_text=True)
    assert len(plain) > len(ids(caption)) + 4 and plain.count(900) == 1


def test_a_text_is_cut_where_asked_for():
    caption = Sample.caption(PHOTO, "word " * 200)
    assert len(ids(caption)) == 75
    assert len(ids(caption, max_text_tokens=20)) == 20
    assert len(ids(caption, max_text_tokens=1000)) > 200
    document = Sample("d", caption.parts)
    assert len(ids(document)) > 200 and len(ids(document, max_text_tokens=20)) == 20


def test_images_are_padded_or_turned_where_asked_for():
    def pixels(data: bytes, **options: object) -> np.ndarray:
        preparer = load_annotator(str(RELEASED), replace(CPU, **options)).preparer()
        return preparer.prepare(Sample.caption(data, "x")).images[0]

    stretched, padded = pixels(WIDE), pixels(WIDE, image_fit="pad")
    assert (padded[0] == 127).all() and not (stretched[0] == 127).all()
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    out = io.BytesIO()
    PIL.Image.fromarray(picture(2)).save(out, "PNG", exif=exif)
    turned = pixels(out.getvalue(), apply_orientation=True)
    assert np.array_equal(turned, pixels(out.getvalue())[::-1, ::-1])


def test_limits_reach_the_decoder():
    limits = ImageLimits(max_pixels=100)
    model = load_model(str(RELEASED), device="cpu", image_limits=limits)
    assert model.score([Sample.caption(PHOTO, "x")])[0]["status"] == "image_too_large"
    small = load_model(str(RELEASED), device="cpu", image_limits=ImageLimits(min_side=46))
    assert small.score([Sample.caption(PHOTO, "x")])[0]["status"] == "image_too_small"
    big = Image(png(picture(3, 50, 50)))
    row = small.score([Sample("d", (Image(PHOTO), big, Text("x")))])[0]
    assert row["status"] == "ok" and row["num_skipped_images"] == 1 and row["num_images"] == 1


def test_a_document_longer_than_the_model_is_cut_and_says_so(tmp_path):
    folder = copy_released(tmp_path)
    edit_json(folder / "config.json", tokenizer_model_max_length=300)
    many = Sample("d", (*[Image(PHOTO)] * 9, Text("never seen")))
    row = load_model(str(folder), device="cpu").score([many])[0]
    assert (row["num_tokens"], row["num_images"], row["truncated"]) == (300, 3, True)
    short = Sample("d", (Image(PHOTO), Image(PHOTO)))
    row = load_model(str(folder), device="cpu").score([short])[0]
    assert (row["num_tokens"], row["num_images"], row["truncated"]) == (292, 2, False)


def copy_released(place: Path) -> Path:
    shutil.copytree(RELEASED, place / "model")
    shutil.copytree(RELEASED.parent / "towers", place / "towers")
    return place / "model"


def test_fingerprint_changes_with_whatever_changes_a_score(tmp_path):
    base = load_annotator(str(RELEASED), CPU).fingerprint
    assert base == load_annotator(str(copy_released(tmp_path)), CPU).fingerprint
    changed = [
        replace(CPU, image_fit="pad"),
        replace(CPU, max_text_tokens=80),
        replace(CPU, plain_text=True),
        replace(CPU, apply_orientation=True),
        replace(CPU, fast_images=True),
        replace(CPU, dtype="bfloat16"),
        replace(CPU, image_limits=ImageLimits(max_pixels=9)),
    ]
    seen = [load_annotator(str(RELEASED), options).fingerprint for options in changed]
    differing = [{name for name in base if base[name] != found[name]} for found in seen]
    assert all(len(names) == 1 for names in differing) and len(set.union(*differing)) == 7
    assert load_annotator(str(RELEASED), replace(CPU, max_text_tokens=None)).fingerprint == base


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("model/model.safetensors", "weights"),
        ("model/tokenizer.json", "tokenizer"),
        ("towers/siglip2-tiny-p4-62/model.safetensors", "tower"),
    ],
)
def test_fingerprint_sees_a_changed_file(file, name, tmp_path):
    base = load_annotator(str(RELEASED), CPU).fingerprint
    folder = copy_released(tmp_path)
    data = bytearray((tmp_path / file).read_bytes())
    data[-20:-10] = b"x" * 10
    (tmp_path / file).write_bytes(data)
    found = load_annotator(str(folder), CPU).fingerprint
    assert {key for key in base if base[key] != found[key]} == {name}


def test_annotator_and_preparer_travel_and_stay_light():
    code = f"""
import pickle, sys
from mmsieve.methods.load import ScoringOptions, load_annotator
annotator = load_annotator({str(RELEASED)!r}, ScoringOptions(device="cpu"))
annotator.fingerprint
sys.stdout.buffer.write(pickle.dumps(pickle.loads(pickle.dumps(annotator)).preparer()))
sys.exit("torch" in sys.modules)
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    caption = Sample.caption(PHOTO, "Two dogs.")
    work = f"""
import pickle, sys
preparer = pickle.loads({made.stdout!r})
item = preparer.prepare(pickle.loads({pickle.dumps(caption)!r}))
pickle.loads(pickle.dumps(preparer))
print(item.ids.tolist())
sys.exit("torch" in sys.modules or "transformers" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", work], capture_output=True, check=True)
    assert ran.stdout.decode().strip() == str(ids(caption))


def test_scores_do_not_depend_on_the_order_of_a_stream(model):
    samples = [Sample.caption(PHOTO, "word " * n, str(n)) for n in range(20)]
    runner = load_annotator(str(RELEASED), CPU).runner(RunnerOptions("cpu", 700))
    preparer = load_annotator(str(RELEASED), CPU).preparer()
    items = [(n, preparer.prepare(sample)) for n, sample in enumerate(samples)]
    one, other = dict(runner.run(items)), dict(runner.run(items[::-1]))
    assert list(runner.run(items)) == list(runner.run(items))
    for n in range(20):
        assert one[n] == {
            **other[n],
            "quality_score": pytest.approx(other[n]["quality_score"], abs=1e-5),
        }


def make_runner(batch_tokens: int = 2000) -> unifilter_runner.UniFilterRunner:
    return load_annotator(str(RELEASED), CPU).runner(RunnerOptions("cpu", batch_tokens))


def make_items(count: int, images: int = 1) -> list[tuple[int, Item]]:
    preparer = load_annotator(str(RELEASED), CPU).preparer()
    parts = [Image(PHOTO)] * images
    samples = [Sample("k", (*parts, Text("word " * n))) for n in range(count)]
    return [(n, preparer.prepare(sample)) for n, sample in enumerate(samples)]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_out_of_memory_halves_the_batch(error, monkeypatch):
    runner, items = make_runner(), make_items(12)
    wanted = dict(make_runner().run(items))
    stock, sizes = runner.model.classify, []

    def small_memory(ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 3:
            raise error
        return stock(ids, *rest)

    monkeypatch.setattr(runner.model, "classify", small_memory)
    got = dict(runner.run(items))
    assert got.keys() == wanted.keys()
    for n, row in got.items():
        assert row["quality_score"] == pytest.approx(wanted[n]["quality_score"], abs=1e-5)
    sizes.clear()
    list(runner.run(items))
    assert max(sizes) <= 3  # the budget was learnt


def test_out_of_memory_takes_fewer_images_at_once_then_names_the_fix(monkeypatch):
    runner, items = make_runner(), make_items(1, images=6)
    stock, seen = runner.model.encode_images, []

    def two_at_most(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return stock(pixels)

    monkeypatch.setattr(runner.model, "encode_images", two_at_most)
    assert dict(runner.run(items))[0]["num_images"] == 6
    assert max(seen) == 6 and 1 <= seen[-1] <= 2

    def none_at_all(pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(runner.model, "encode_images", none_at_all)
    with pytest.raises(ShardError, match=r"does not fit .* use --dtype"):
        list(runner.run(items))


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    runner = make_runner()
    monkeypatch.setattr(runner.model, "classify", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(runner.run(make_items(1)))


def test_a_score_that_is_no_number_is_a_row(monkeypatch):
    runner = make_runner()
    stock = runner.model.classify

    def broken(*args: torch.Tensor) -> torch.Tensor:
        logits = stock(*args)
        logits[0] = torch.nan
        return logits

    monkeypatch.setattr(runner.model, "classify", broken)
    rows = [row for _, row in runner.run(make_items(3))]
    failed = [row for row in rows if isinstance(row, SampleError)]
    assert len(failed) == 1 and failed[0].status == Status.SCORE_NOT_FINITE


@pytest.mark.parametrize(
    ("logits", "scoring", "score", "level"),
    [
        ([2.6], "regression", 2.6, 3),
        ([-1.0], "regression", -1.0, 0),
        ([7.0], "regression", 7.0, 3),
        ([0.0, 0.0], "published", 0.5, 0),
        ([0.0, 1.0, 5.0], "published", np.exp(1) / (1 + np.exp(1) + np.exp(5)), 2),
        ([-90.0, -90.0, 90.0, -90.0], "expected", 2.0, 2),
    ],
)
def test_scores_and_levels(logits, scoring, score, level):
    got = quality(np.array(logits, np.float32), scoring)
    assert got[0] == pytest.approx(score, abs=1e-6) and got[1] == level


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(model, dtype):
    samples = [Sample.caption(PHOTO, "word " * n, str(n)) for n in range(6)]
    rows = load_model(str(RELEASED), device="cpu", dtype=dtype).score(samples)
    for row, want in zip(rows, model.score(samples), strict=True):
        assert row["quality_score"] == pytest.approx(want["quality_score"], abs=0.1)


def test_devices_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert resolve_device() == resolve_device("auto") == "cpu"
    assert resolve_dtype("auto", "cpu") == "float32"
    assert resolve_dtype("auto", "cuda:1") == "bfloat16"
    with pytest.raises(RequestError, match="0 GPUs"):
        resolve_device("cuda:0")
    with pytest.raises(RequestError, match="finds no GPU"):
        load_annotator(str(RELEASED), CPU).runner(RunnerOptions("cuda"))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("/no/such/folder", {}, "no model"),
        ("no such model", {}, "no model"),
        ("nobody/nothing", {}, "no such model in the local"),
        (__file__, {}, "is a file"),
        (str(Path(__file__).parent), {}, "no config.json"),
        (str(RELEASED), {"device": "tpu"}, "is not one of auto, cpu, cuda, cuda:N"),
        (str(RELEASED), {"dtype": "int8"}, "is not one of auto, float32"),
        (str(RELEASED), {"image_fit": "crop"}, "is not one of stretch, pad"),
        (str(RELEASED), {"max_text_tokens": 0}, "at least 1"),
        (str(RELEASED), {"colour": "red"}, "colour"),
    ],
)
def test_wrong_requests_are_one_line_and_quick(model, options, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    with pytest.raises(RequestError, match=message) as error:
        load_model(model, **options)
    assert "\n" not in str(error.value) and time.monotonic() - start < 2


def test_fingerprint_of_a_large_checkpoint_is_quick(tmp_path):
    from mmsieve.methods.folders import hash_files

    file = tmp_path / "model.safetensors"
    with file.open("wb") as sparse:
        sparse.write((100).to_bytes(8, "little") + b"{}" + b" " * 98)
        sparse.truncate(15 * 2**30)
    start = time.monotonic()
    assert hash_files([file]) == hash_files([file])
    assert time.monotonic() - start < 1

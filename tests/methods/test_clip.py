"""clip: the cosines of the stock model and processor, in any company; bad samples are rows."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

import mmsieve
from mmsieve import RequestError, RunOptions, Sample, ScoringOptions, load_model
from mmsieve.cli import main
from mmsieve.methods.clip.checkpoint import load_clip_tokenizer, open_clip
from mmsieve.methods.clip.runner import ClipTowers
from mmsieve.methods.folders import bundled_folder
from mmsieve.methods.load import load_annotator
from mmsieve.methods.tower import open_tower
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sources import find_files
from mmsieve.tables import table_files
from tests.helpers.paths import RECORDED_DATA
from tests.helpers.shards import caption, image, write_tar
from tests.helpers.tiny import edit_json, picture
from tests.helpers.towers import Stock, make_clip

RECORDED = RECORDED_DATA / "unifilter" / "inputs"
KINDS = ("clip", "siglip", "siglip2")
WORDS = [
    "A small brown dog runs across the wet grass.",
    "DOG!! on  the\nGrass, 'quoted' & more",
    "A map of the river delta, with flood barriers in blue; " * 4,
    "x",
    "café 犬 </s> <|endoftext|> after",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("towers")
    return {kind: make_clip(place / kind, kind) for kind in KINDS}


def photo(seed: int, height: int = 45, width: int = 60, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(picture(seed, height, width)).save(out, kind)
    return out.getvalue()


def samples() -> list[Sample]:
    """Caption pairs of real files, then pairs of every shape."""
    found = []
    read = ReadOptions()
    for shard in split_files(find_files([str(RECORDED / "captions")]).files, read):
        with open_shard(shard, read) as reader:
            found += [parse_record(reader.parse, record) for record in reader.records]
    shapes = [(45, 60), (60, 45), (28, 28), (101, 29), (30, 200)]
    made = [
        Sample.caption(photo(seed, *shape, kind), text)
        for seed, (shape, text) in enumerate(zip(shapes, WORDS, strict=True))
        for kind in ("PNG", "JPEG")
    ]
    return [*(sample for sample in found if caption_text(sample).strip()), *made]


def caption_text(sample: Sample) -> str:
    return "\n".join(part.text for part in sample.parts if not hasattr(part, "data"))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_stock_cosines(folders, kind):
    pairs, stock = samples(), Stock(folders[kind])
    rows = load_model(f"clip:{folders[kind]}", device="cpu").score(pairs)
    assert {row["status"] for row in rows} == {"ok"}
    assert np.std([row["quality_score"] for row in rows]) > 0.01
    for sample, row in zip(pairs, rows, strict=True):
        text = caption_text(sample)
        text = text.lower() if kind == "siglip2" else text  # as stock Siglip2Tokenizer does
        cosine = stock.cosine(sample.images[0].data, text)
        assert row["quality_score"] == pytest.approx(cosine, abs=1e-5)
        ids = stock.tokenizer(text)["input_ids"]
        assert row["truncated"] == (len(ids) > 16)
        assert row["num_tokens"] == min(len(ids), 16)


def test_an_old_folder_marks_the_end_by_its_highest_id(tmp_path):
    folder = make_clip(tmp_path / "old", "clip", legacy_eos=True)
    row = load_model(f"clip:{folder}", device="cpu").score([Sample.caption(photo(1), WORDS[0])])[0]
    cosine = Stock(folder).cosine(photo(1), WORDS[0])
    assert row["quality_score"] == pytest.approx(cosine, abs=1e-5)


def test_a_folder_with_the_files_of_old_is_read_alike(tmp_path, folders):
    """preprocessor_config.json, and vocab.json with merges.txt."""
    folder = shutil.copytree(folders["clip"], tmp_path / "old")
    both = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(both))
    (folder / "processor_config.json").unlink()
    made = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(made["vocab"]))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in made["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer.json").unlink()
    pairs = samples()
    old = load_model(f"clip:{folder}", device="cpu").score(pairs)
    new = load_model(f"clip:{folders['clip']}", device="cpu").score(pairs)
    assert [row["quality_score"] for row in old] == [row["quality_score"] for row in new]


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_order_and_batches_change_no_score(folders, kind):
    pairs = samples()
    whole = load_model(f"clip:{folders[kind]}", device="cpu").score(pairs)
    small = load_model(f"clip:{folders[kind]}", device="cpu", batch_tokens=1)
    scores = np.array([row["quality_score"] for row in whole])
    back = np.array([row["quality_score"] for row in small.score(pairs[::-1])])[::-1]
    assert np.abs(scores - back).max() < 1e-5


def test_a_document_is_the_mean_over_images_of_the_nearest_text(folders):
    photos, texts = [photo(1), photo(2, 30, 80)], WORDS[:2]
    document = Sample.document([texts[0], photos[0], b"no image", " ", photos[1], texts[1]])
    row = load_model(f"clip:{folders['clip']}", device="cpu").score([document])[0]
    stock = Stock(folders["clip"])
    best = [max(stock.cosine(one, text) for text in texts) for one in photos]
    assert row["quality_score"] == pytest.approx(np.mean(best), abs=1e-5)
    assert (row["num_images"], row["num_skipped_images"]) == (2, 1)


def test_what_can_not_be_compared_is_a_row_with_its_reason(folders):
    rows = load_model(f"clip:{folders['siglip2']}", device="cpu").score(
        [
            Sample.caption(b"no image", "Two dogs."),
            Sample.caption(photo(1), " \n"),
            Sample.document(["only text"]),
            Sample.document([photo(1)]),
            Sample.document(["text", b"no image"]),
            Sample.caption(photo(1), "Two dogs."),
        ]
    )
    assert [row["status"] for row in rows] == [
        "image_undecodable",
        "text_missing",
        "no_usable_image",
        "text_missing",
        "no_usable_image",
        "ok",
    ]
    assert "quality_level" not in rows[0]


def test_scores_are_a_table_that_resumes_and_refuses_another_model(folders, tmp_path):
    members = [m for n in range(5) for m in caption(f"{n}", f"Square {n} " * (n + 1))]
    write_tar(tmp_path / "in" / "a.tar", [*members, ("x.jpg", b"no image"), ("x.txt", b"dog")])
    write_tar(tmp_path / "in" / "b.tar", [("y.jpg", image(3)), ("y.txt", b"A red dog.")])
    run = RunOptions(workers=1, quiet=True)

    def score(kind: str, **options) -> mmsieve.RunReport:
        return mmsieve.score(
            str(tmp_path / "in"),
            model=f"clip:{folders[kind]}",
            out=tmp_path / "out",
            run=run,
            scoring=ScoringOptions(device="cpu", **options),
        )

    assert score("clip").statuses == {"ok": 6, "image_undecodable": 1}
    table = pl.concat([pl.read_parquet(path) for path in table_files(tmp_path / "out").values()])
    assert table.schema["quality_score"] == pl.Float32
    assert "quality_level" not in table.columns
    assert table["uid"].drop_nulls().to_list() == ["0", "1", "2", "3", "4"]
    assert score("clip").shards == 0
    with pytest.raises(RequestError, match=r"another .*weights"):
        score("siglip2")
    with pytest.raises(RequestError, match="another image_fit, text_tokens"):
        score("clip", image_fit="pad", max_text_tokens=5)


def test_a_text_is_cut_where_asked_and_padded_as_trained(folders):
    for kind in KINDS:
        annotator = load_annotator(f"clip:{folders[kind]}", ScoringOptions(max_text_tokens=4))
        item = annotator.preparer().prepare(Sample.caption(photo(1), WORDS[0]))
        assert (item.num_tokens, item.truncated) == (4, True)
        whole = load_annotator(f"clip:{folders[kind]}").preparer()
        assert item.texts[0][-1] == whole.prepare(Sample.caption(photo(1), "a dog")).texts[0][-1]


def test_control_strings_are_words_where_asked(folders):
    for kind, word in (("clip", "<|endoftext|>"), ("siglip2", "<eos>"), ("siglip", "</s>")):
        tokenizer = load_clip_tokenizer(open_clip(folders[kind]))
        end = tokenizer.build().encode("dog")[0][-1]
        for plain, times in ((False, 2), (True, 1)):
            ids, _ = tokenizer.build(plain).encode(f"dog {word} dog")
            assert (ids == end).sum() == times


def test_out_of_memory_halves_the_batch(folders, monkeypatch):
    pairs = samples()[:6]
    model = load_model(f"clip:{folders['clip']}", device="cpu")
    before = model.score(pairs)
    encode, seen = ClipTowers.images, []

    def limited(self, pixels):
        seen.append(len(pixels))
        if len(pixels) > 2:
            raise RuntimeError("not enough memory: you tried to allocate")
        return encode(self, pixels)

    monkeypatch.setattr(ClipTowers, "images", limited)
    after = model.score(pairs)
    assert max(seen) > 2
    assert [r["quality_score"] for r in after] == pytest.approx(
        [r["quality_score"] for r in before], abs=1e-5
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_numbers_come_near(folders, dtype):
    pairs = samples()[:6]
    exact = load_model(f"clip:{folders['clip']}", device="cpu").score(pairs)
    rough = load_model(f"clip:{folders['clip']}", device="cpu", dtype=dtype).score(pairs)
    for a, b in zip(exact, rough, strict=True):
        assert a["quality_score"] == pytest.approx(b["quality_score"], abs=0.05)


def wrong(folders: dict[str, Path], tmp_path: Path) -> dict[str, str]:
    """Model -> what the refusal says."""
    clip = folders["clip"]
    naflex = shutil.copytree(clip, tmp_path / "naflex")
    edit_json(naflex / "config.json", model_type="siglip2")
    pickled = shutil.copytree(clip, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    mute = shutil.copytree(clip, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    tower = tmp_path / "tower"
    shutil.copytree(RECORDED.parent / "towers", tower)
    alone = next(path.parent for path in tower.rglob("config.json"))
    return {
        "clip:": "after the colon",
        "clip:nowhere": "no model 'nowhere'",
        "clip:unifilter-tiny": "no model 'unifilter-tiny'",
        f"clip:{bundled_folder('unifilter-tiny')}": "not one of clip, siglip",
        f"clip:{naflex}": "any size",
        f"clip:{pickled}": "only pickled weights",
        f"clip:{mute}": "no tokenizer",
        f"clip:{alone}": "no tokenizer|no text tower|not one of",
        "clap:folder": "no model 'clap:folder'.*clip:MODEL",
    }


def test_wrong_models_are_refused_in_one_line(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_tar(tmp_path / "a.tar", caption("a"))
    for model, said in wrong(folders, tmp_path).items():
        with pytest.raises(SystemExit) as left:
            main(["score", str(tmp_path / "a.tar"), "--model", model, "--out", str(tmp_path / "o")])
        lines = capsys.readouterr().err.splitlines()
        assert left.value.code == 2
        assert len(lines) == 1 and re.search(said, lines[0]), lines
    assert not (tmp_path / "o").exists()


def test_weights_that_are_not_there_are_named(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "part")
    state = load_file(folder / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match="no tensor text_projection"):
        load_model(f"clip:{folder}", device="cpu")


def test_images_fit_as_the_folder_says(folders):
    assert open_tower(folders["clip"]).image.fit == "crop"
    assert open_tower(folders["siglip"]).image.resample == 3
    assert open_tower(folders["siglip2"]).image.resample == 2

"""Training on rendered scenes: groups drawn on demand, a tower's pretext task, a new tiny model."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.data import Dataset

from mmsieve.images import ImageSpec
from mmsieve.methods.tower import Tower
from mmsieve.methods.unifilter.checkpoint import ARCHITECTURES, Checkpoint
from mmsieve.methods.unifilter.inputs import UniFilterPreparer
from mmsieve.methods.unifilter.model import QualityClassifier, QualityConfig, save_classifier
from mmsieve.synthetic.draw import draw_scene
from mmsieve.synthetic.scenes import GRID, SIGN, WORLDS, Scene, sample_scene
from mmsieve.synthetic.teacher import Drawing, caption_group, document_group
from mmsieve.training.data import PreparedGroup, prepare_group, text_by_text
from mmsieve.training.initial import write_pretrained
from mmsieve.training.recipe import Architecture, Pretrained, Recipe, Rendered

# A tokenizer for a tiny model: learnt from the texts that the model is going to read

_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def learn_tokenizer(texts: Iterable[str], special: Sequence[str], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens: the texts' words are a token each, and any other
    text fits too. `special` get the first ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


# Rendered groups as training data: drawn when they are asked for, the same ones every time


def choose_family(
    families: dict[str, float], seed: tuple[int, ...], *, only_things: bool = False
) -> str:
    """A family by its share, of those whose scenes are made of objects if asked for."""
    names = [name for name in families if not only_things or WORLDS[name].has_things]
    shares = np.array([families[name] for name in names])
    rng = np.random.default_rng(seed)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


class RenderedGroups(Dataset[list[PreparedGroup]]):
    """A step's worth of rendered groups per index, all of one kind so that rows pad little."""

    def __init__(
        self, preparer: UniFilterPreparer, wanted: Rendered, batch: int, seed: int
    ) -> None:
        self._preparer, self._wanted = preparer, wanted
        self._batch, self._seed = batch, seed

    def __len__(self) -> int:
        return self._wanted.groups // self._batch

    def __getitem__(self, step: int) -> list[PreparedGroup]:
        """The groups of a step; the same step gives the same groups."""
        share = self._wanted.document_share
        documents = int((step + 1) * share) > int(step * share)
        make = document_group if documents else caption_group
        count = max(1, self._batch // _LONGER) if documents else self._batch
        first = step * self._batch
        families = self._wanted.families
        family = choose_family(families, (self._seed, 3, step), only_things=documents)
        drawing = _drawing(self._wanted, family)
        groups = [make(self._seed, first + i, drawing) for i in range(count)]
        return [prepare_group(self._preparer, group) for group in groups]


_LONGER = 4
"""How many groups of captions take the room of one group of documents, about."""


class HeldOutTexts(Dataset[list[PreparedGroup]]):
    """Texts over rendered images that no training sees, one per index."""

    def __init__(self, preparer: UniFilterPreparer, wanted: Rendered, seed: int) -> None:
        drawing = _drawing(wanted, "core")
        self._texts = [
            text
            for index in range(wanted.held_out)
            for make in (caption_group, document_group)
            for text in text_by_text(make(seed, _UNSEEN + index, drawing))
        ]
        self._preparer = preparer

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> list[PreparedGroup]:
        """The text, as a group of its own."""
        return [prepare_group(self._preparer, self._texts[index])]


_UNSEEN = 10**12
"""Training never counts its groups so far."""


def _drawing(wanted: Rendered, family: str) -> Drawing:
    return Drawing(family=family, encoding="BMP", blank=wanted.blank_images, aspect=wanted.aspect)


# What is where in rendered scenes: the lessons of a vision tower that starts from nothing

_WORLD = WORLDS["many"]
"""Every other world of objects is a part of it."""
_NONE = ""
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": (_NONE, *_WORLD.shapes, SIGN),
    "colour": (_NONE, *_WORLD.colours),
    "fill": (_NONE, *_WORLD.fills),
    "size": (_NONE, *_WORLD.sizes),
    "word": (_NONE, *_WORLD.words),
}
"""Attribute -> its values; the first stands for an empty cell or an object without it."""
CLASSES = (GRID * GRID, *(len(values) for values in ATTRIBUTES.values()))
"""What a patch is asked: which cell it is, then each attribute of what is in it."""


class RenderedCells(Dataset[list[tuple[Scene, int]]]):
    """A step's worth of scenes per index, with the side of their pictures in pixels."""

    def __init__(self, wanted: Rendered, batch: int, seed: int, size: int) -> None:
        self._wanted, self._batch = wanted, batch
        self._seed, self._size = seed, size

    def __len__(self) -> int:
        return self._wanted.groups // self._batch

    def __getitem__(self, step: int) -> list[tuple[Scene, int]]:
        """The scenes of a step; the same step gives the same scenes."""
        family = choose_family(self._wanted.families, (self._seed, 4, step), only_things=True)
        seeds = np.random.default_rng((self._seed, 2, step)).integers(2**62, size=self._batch)
        return [(sample_scene(family, int(seed)), self._size) for seed in seeds]


def collate_cells(steps: list[list[tuple[Scene, int]]]) -> dict[str, Tensor]:
    """`pixels` [images, size, size, 3] uint8, `labels` [images, cells, len(CLASSES)]."""
    scenes = [scene for step in steps for scene in step]
    pixels = np.stack([np.asarray(draw_scene(scene, size)) for scene, size in scenes])
    labels = np.stack([_labels(scene) for scene, _ in scenes])
    return {"pixels": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


def _labels(scene: Scene) -> np.ndarray:
    labels = np.zeros((GRID * GRID, len(CLASSES)), np.int64)
    labels[:, 0] = range(GRID * GRID)
    for thing in scene.things:
        said = thing.attributes()
        values = [kinds.index(said.get(name, _NONE)) for name, kinds in ATTRIBUTES.items()]
        labels[thing.cell, 1:] = values
    return labels


# The folder that a training starts from, in the published layout: a classifier from nothing

_PAD, _END, _BEGIN = "<|pad|>", "<|end|>", "<s>"
_IDS = {_PAD: 0, _END: 1, _BEGIN: 2}
_BILINEAR = 2
_HALF = (0.5, 0.5, 0.5)
_SCENES = 400
"""Groups of each family whose texts the tokenizer learns from."""


def write_start(folder: Path, recipe: Recipe) -> None:
    """Write the checkpoint folder of a new classifier; what is not pretrained is random."""
    torch.manual_seed(recipe.seed)
    start = recipe.start
    own: dict[str, Any] = {"max_text_tokens": start.max_text_tokens, "plain_text": True}
    own |= {} if start.image_fit == "stretch" else {"image_fit": start.image_fit}
    if isinstance(start, Pretrained):
        write_pretrained(folder, start, own)
    else:
        _write_new(folder, start, own)


def _write_new(folder: Path, architecture: Architecture, own: dict[str, Any]) -> None:
    with TemporaryDirectory() as place:
        like = _blank(Path(place), architecture)
        _write_tokenizer(Path(place), architecture.vocabulary)
        model = QualityClassifier(QualityConfig.of(like))
        save_classifier(model, folder, like, own)


def _blank(folder: Path, architecture: Architecture) -> Checkpoint:
    """What open_checkpoint would understand of the new classifier, before it is on disk."""
    side = architecture.image_size // architecture.patch_size
    config = {
        "model_type": "llava_qwen3",
        "architectures": [ARCHITECTURES["llava_qwen3"]],
        "hidden_size": architecture.hidden,
        "intermediate_size": architecture.intermediate,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.heads,
        "head_dim": architecture.hidden // architecture.heads,
        "vocab_size": architecture.vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": _IDS[_BEGIN],
        "eos_token_id": _IDS[_END],
        "pad_token_id": _IDS[_PAD],
        "num_labels": architecture.labels,
        "mm_hidden_size": architecture.hidden,
        "mm_num_image_tokens": architecture.image_tokens or side * side,
        "mm_projector_type": "aapool_mlp",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "inside/siglip-tiny",
        "tokenizer_model_max_length": architecture.max_sequence,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": architecture.hidden,
        "intermediate_size": architecture.intermediate,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
    }
    image = ImageSpec(architecture.image_size, _BILINEAR, _HALF, _HALF, "stretch")
    return Checkpoint(folder, config, {}, Tower("siglip", vision, image, {}, "new"))


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    tokenizer = learn_tokenizer(_texts(), list(_IDS), vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": _BEGIN, "eos_token": _END, "pad_token": _PAD}
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _texts() -> Iterator[str]:
    """Texts of all families without writing errors, so that a misspelt word falls to pieces."""
    for family in WORLDS:
        for index in range(_SCENES):
            for told in caption_group(0, index, Drawing(family=family)).texts:
                yield told.text
    for index in range(_SCENES):
        yield document_group(0, index).texts[-1].text

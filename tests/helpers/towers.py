"""Tiny CLIP and SigLIP folders, made and judged by the stock classes; no code of mmsieve here."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.helpers.tiny import TEXTS, edit_json, shake

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_LENGTH = 16
"""Ids of a text: short, so that texts are cut."""


def make_clip(folder: Path, kind: str, legacy_eos: bool = False) -> Path:
    """A folder of kind clip, siglip (spiece.model) or siglip2 (tokenizer.json), as is usual.

    `legacy_eos`: the config says eos 2, as OpenAI's folders do, and the highest id marks the end.
    """
    processor = {"clip": _clip, "siglip": _siglip, "siglip2": _siglip2}[kind](folder)
    tokenizer = processor.tokenizer
    text = _SIZES | {"max_position_embeddings": _LENGTH, "vocab_size": len(tokenizer) + 1}
    text |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    vision = _SIZES | {"patch_size": 7, "image_size": 28 if kind == "clip" else 30}
    if kind == "clip":
        text |= {"eos_token_id": 2} if legacy_eos else {}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    torch.manual_seed(7)
    shake(model.eval())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind == "siglip2":  # what the released folders say
        names = {"padding_side": "right", "model_input_names": ["input_ids"]}
        edit_json(folder / "tokenizer_config.json", **names)
    return folder


class Stock:
    """The stock model and processor of a folder."""

    def __init__(self, folder: Path) -> None:
        self.is_clip = transformers.AutoConfig.from_pretrained(folder).model_type == "clip"
        stock = transformers.CLIPModel if self.is_clip else transformers.SiglipModel
        self.model = stock.from_pretrained(folder).eval()
        self.images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        names = {True: "CLIPTokenizer", False: "PreTrainedTokenizerFast"}
        name = "SiglipTokenizer" if (folder / "spiece.model").is_file() else names[self.is_clip]
        self.tokenizer = getattr(transformers, name).from_pretrained(folder)

    @torch.no_grad()
    def cosine(self, image: bytes, text: str) -> float:
        """Of one pair, alone."""
        # as arrays: transformers lays transparent images over white, open_clip drops alpha
        picture = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
        encoded = self.tokenizer(
            [text],
            padding=True if self.is_clip else "max_length",
            truncation=True,
            max_length=_LENGTH,
            return_tensors="pt",
        )
        pixels = self.images(picture, return_tensors="pt", input_data_format="channels_last")
        out = self.model(input_ids=encoded["input_ids"], **pixels)
        return float(torch.cosine_similarity(out.image_embeds, out.text_embeds)[0])


def _clip(folder: Path) -> Any:
    special = ["<|startoftext|>", "<|endoftext|>"]
    trained = transformers.CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator(_texts(), trainer)
    vocab = {
        name: place for place, name in enumerate(sorted(trained.get_vocab().keys() - {*special}))
    }
    merges = [m for m in _merges(trained) if all(p in vocab for p in (*m, "".join(m)))]
    vocab |= {name: len(vocab) + place for place, name in enumerate(special)}  # eos the highest
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=_LENGTH)
    return transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def _siglip(folder: Path) -> Any:
    folder.mkdir(parents=True)
    spiece = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.lower() for text in _texts()),
        model_writer=spiece,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(spiece.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=_LENGTH)
    return transformers.SiglipProcessor(image_processor=_siglip_images(3), tokenizer=tokenizer)


def _siglip2(folder: Path) -> Any:
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    backend.train_from_iterator(
        (text.lower() for text in _texts()),
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    return transformers.SiglipProcessor(image_processor=_siglip_images(2), tokenizer=tokenizer)


def _siglip_images(resample: int) -> Any:
    return transformers.SiglipImageProcessorPil(
        size={"height": 30, "width": 30},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=resample,
    )


def _texts() -> Iterable[str]:
    return [text for text in TEXTS if text] * 10

"""Tiny checkpoints of every family, made with the stock classes; and their judge.

The judge scores one sample by the shortest road through stock modules: AutoModel, the tower's
own encoder, the stock image processor. It shares no code with mmsieve.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from tests.helpers.paths import RECORDED_DATA

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

DATA = RECORDED_DATA / "unifilter"
RELEASED = DATA / "UniFilter-Qwen3-tiny"

FAMILIES = {
    "qwen3": ("llava_qwen3", {"head_dim": 24}),
    "qwen2": ("llava_qwen", {}),
    "llama": ("llava_llama", {}),
    "phi3": ("llava_phi3", {"sliding_window": 200}),
    "gemma2": (
        "llava_gemma",
        {"head_dim": 24, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 24},
    ),
}

TEXTS = [
    "A small brown dog runs across the wet grass.",
    "<s>A map of the river delta, with flood barriers in blue.",
    "Text with <image> inside, and <|endoftext|> too; eos at the end<|im_end|>",
    "",
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to make; the defaults are the smallest thing that still has every part."""

    family: str = "qwen3"
    labels: int = 1
    tower: str = "siglip"
    projector: str = "aapool_mlp"
    tokens: int = 16
    select_layer: int = -1
    select_feature: str = "patch"
    hidden: int = 64
    width: int = 48
    """Of the tower."""
    max_sequence: int | None = 8192
    seed: int = 0


def make_checkpoint(folder: Path, recipe: Recipe = Recipe()) -> Path:
    """A checkpoint in the published layout at `folder`, its tower in `folder/../towers/tiny`."""
    tower = make_tower(folder.parent / "towers" / f"{recipe.tower}-tiny", recipe)
    torch.manual_seed(recipe.seed)
    text = _text_model(recipe)
    width = tower.config.hidden_size
    state = {f"model.{name}": tensor for name, tensor in text.state_dict().items()}
    state |= {
        f"model.mm_projector.{name}": torch.randn(shape)
        * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)
        for name, shape in _projector_shapes(recipe.projector, width, recipe.hidden).items()
    }
    state["score.weight"] = torch.randn(recipe.labels, recipe.hidden) * 0.1
    state |= {
        f"model.vision_tower.vision_tower.vision_model.{name.removeprefix('vision_model.')}": tensor
        for name, tensor in tower.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors"
    )
    write_json(folder / "config.json", _config(text, tower, recipe))
    make_tokenizer(folder, recipe.family)
    return folder


def make_tower(place: Path, recipe: Recipe) -> Any:
    """A stock vision tower with its processor's values, saved at `place`."""
    torch.manual_seed(recipe.seed + 1)
    sizes = {"hidden_size": recipe.width, "intermediate_size": 96, "num_hidden_layers": 3}
    sizes["num_attention_heads"] = recipe.width // 12 if recipe.width < 768 else 12
    if recipe.tower == "siglip":
        config = transformers.SiglipVisionConfig(**sizes, image_size=30, patch_size=7)
        processor = transformers.SiglipImageProcessorPil(
            size={"height": 30, "width": 30}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
        )
    else:
        config = transformers.CLIPVisionConfig(**sizes, image_size=28, patch_size=7)
        processor = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )
    model = transformers.AutoModel.from_config(config).eval()
    shake(model)
    model.save_pretrained(place)
    write_json(place / "preprocessor_config.json", json.loads(processor.to_json_string()))
    return model


def _text_model(recipe: Recipe) -> Any:
    _, extra = FAMILIES[recipe.family]
    config = transformers.AutoConfig.for_model(
        recipe.family,
        vocab_size=1024,
        hidden_size=recipe.hidden,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=901,
        bos_token_id=901,
        eos_token_id=900,
        max_position_embeddings=4096,
        **extra,
    )
    attention = "eager" if recipe.family == "gemma2" else "sdpa"
    model = transformers.AutoModel.from_config(config, attn_implementation=attention).eval()
    shake(model)
    return model


def shake(model: Any) -> None:
    """Weights large enough that scores differ; norms and biases that are not neutral."""
    for name, tensor in model.named_parameters():
        noise = torch.randn_like(tensor)
        if "norm" in name and name.endswith("weight"):
            noise = noise * 0.1 + (0 if "gemma" in model.config.model_type else 1)
        elif tensor.dim() <= 1:
            noise *= 0.2
        elif "embed" in name:
            noise *= 0.5
        else:
            noise *= tensor[0].numel() ** -0.5 * 1.5
        tensor.data.copy_(noise)


def _projector_shapes(kind: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    if kind == "linear":
        return {"weight": (hidden, width), "bias": (hidden,)}
    if kind == "identity":
        return {}
    prefix, depth = ("mlp_projector.", 2) if kind == "aapool_mlp" else ("", int(kind[3]))
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(depth):
        shapes[f"{prefix}{2 * layer}.weight"] = (hidden, hidden if layer else width)
        shapes[f"{prefix}{2 * layer}.bias"] = (hidden,)
    return shapes


def _config(text: Any, tower: Any, recipe: Recipe) -> dict[str, Any]:
    config = text.config.to_dict()
    for name in ("dtype", "architectures", "_name_or_path", "id2label", "label2id"):
        config.pop(name, None)
    config |= {
        "model_type": FAMILIES[recipe.family][0],
        "mm_vision_tower": f"towers/{recipe.tower}-tiny",
        "mm_projector_type": recipe.projector,
        "mm_num_image_tokens": recipe.tokens,
        "mm_hidden_size": tower.config.hidden_size,
        "mm_vision_select_layer": recipe.select_layer,
        "mm_vision_select_feature": recipe.select_feature,
        "tokenizer_model_max_length": recipe.max_sequence,
        "image_aspect_ratio": "pad",
    }
    if recipe.labels != 2:  # as published: the default is not written
        config["id2label"] = {str(n): f"LABEL_{n}" for n in range(recipe.labels)}
    return config


def make_tokenizer(folder: Path, family: str) -> None:
    """The recorded Qwen tokenizer, or for other families one that adds its own bos."""
    if family.startswith("qwen"):
        for file in RELEASED.iterdir():
            if file.name not in ("config.json", "model.safetensors"):
                shutil.copy(file, folder / file.name)
        return
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(folder / "tokenizer_config.json", names | {"tokenizer_class": "LlamaTokenizerFast"})


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1))


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    value = json.loads(file.read_text()) | changes
    write_json(file, {name: item for name, item in value.items() if item is not None})


class Judge:
    """Logits of one prompt with its images, by stock modules only."""

    def __init__(self, folder: Path, tower: Path | None = None) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        place = tower or folder.parent / self.config["mm_vision_tower"]
        self.tower = transformers.AutoModel.from_pretrained(place).eval()
        self.processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        state = load_file(folder / "model.safetensors")
        self.text = self._text(state)
        self.projector = {
            name.removeprefix("model.mm_projector."): tensor
            for name, tensor in state.items()
            if name.startswith("model.mm_projector.")
        }
        self.head = state["score.weight"]

    def _text(self, state: dict[str, torch.Tensor]) -> Any:
        family = next(f for f, (kind, _) in FAMILIES.items() if kind == self.config["model_type"])
        config = transformers.AutoConfig.for_model(
            family, **{name: value for name, value in self.config.items() if name != "model_type"}
        )
        attention = "eager" if family == "gemma2" else "sdpa"
        model = transformers.AutoModel.from_config(config, attn_implementation=attention)
        own = {
            name.removeprefix("model."): tensor
            for name, tensor in state.items()
            if name.startswith("model.") and "mm_projector" not in name and "vision" not in name
        }
        model.load_state_dict(own)
        return model.eval()

    def ids(self, chunks: list[str], limit: int) -> list[int]:
        """Ids of the texts around the images, -200 between them; as llava's mm_utils does."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        pieces = [self.tokenizer(chunk).input_ids for chunk in chunks]
        drop = 1 if pieces[0][:1] == [bos] else 0
        ids = [bos] if drop else []
        for number, piece in enumerate(pieces):
            ids += ([-200] if number else []) + piece[drop:]
        ids = ids if ids[0] == bos else [bos, *ids]
        ids = ids if ids[-1] == eos else [*ids, eos]
        return [token for token in ids[:limit] if token != self.tokenizer.pad_token_id]

    @torch.no_grad()
    def logits(self, ids: list[int], images: list[Any]) -> torch.Tensor:
        features = self.features(images) if images else iter(())
        embed = self.text.get_input_embeddings()
        parts = []
        for token in ids:
            if token == -200:
                parts.append(next(features))
            else:
                parts.append(embed(torch.tensor([token])))
        inputs = torch.cat(parts)[: self.config.get("tokenizer_model_max_length")]
        mask = torch.ones(1, len(inputs), dtype=torch.long)
        out = self.text(inputs_embeds=inputs[None], attention_mask=mask).last_hidden_state
        return out[0, -1] @ self.head.T

    def features(self, images: list[Any]) -> Any:
        pixels = self.processor(images, return_tensors="pt", input_data_format="channels_last")
        hidden: list[torch.Tensor] = []
        stock = getattr(self.tower, "vision_model", self.tower)
        first = stock.encoder.layers[0].register_forward_pre_hook(
            lambda module, args: hidden.append(args[0])
        )
        hooks = [
            layer.register_forward_hook(
                lambda module, args, out: hidden.append(out[0] if isinstance(out, tuple) else out)
            )
            for layer in stock.encoder.layers
        ]
        self.tower(pixels["pixel_values"])
        for hook in [first, *hooks]:
            hook.remove()
        seen = hidden[self.config["mm_vision_select_layer"]]
        if self.tower.config.model_type.startswith("clip"):
            seen = seen if self.config["mm_vision_select_feature"] == "cls_patch" else seen[:, 1:]
        scale = self.text.config.hidden_size**0.5 if self.text.config.model_type == "gemma2" else 1
        return iter(self.project(seen) * scale)

    def project(self, seen: torch.Tensor) -> torch.Tensor:
        kind, weights = self.config["mm_projector_type"], self.projector
        if kind == "identity":
            return seen
        if kind == "linear":
            return seen @ weights["weight"].T + weights["bias"]
        prefix = ""
        if kind == "aapool_mlp":
            prefix, side = "mlp_projector.", int(seen.shape[1] ** 0.5)
            grid = seen.reshape(len(seen), side, side, -1).permute(0, 3, 1, 2)
            tokens = int(self.config["mm_num_image_tokens"] ** 0.5)
            seen = torch.nn.AdaptiveAvgPool2d(tokens)(grid).permute(0, 2, 3, 1).flatten(1, 2)
        for layer in range(sum(name.endswith("weight") for name in weights)):
            seen = torch.nn.functional.gelu(seen) if layer else seen
            seen = seen @ weights[f"{prefix}{2 * layer}.weight"].T
            seen = seen + weights[f"{prefix}{2 * layer}.bias"]
        return seen


def picture(seed: int, height: int = 45, width: int = 60) -> np.ndarray:
    """Pixels [height, width, 3] with structure at every scale."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3))
    return np.kron(coarse, np.ones((5, 5, 1)))[:height, :width].astype(np.uint8)

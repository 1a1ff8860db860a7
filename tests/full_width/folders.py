"""Checkpoint folders of real width: published layouts, bfloat16, several files, random weights.

Widths, heads, vocabularies and rotary settings are those of the released base models' config.json;
layers are few, so that a folder is written and read in seconds.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

TOWER: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 2,
    "image_size": 384,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
"""google/siglip-so400m-patch14-384."""
TOWER_PATH = "google/siglip-so400m-patch14-384"

_QWEN: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "max_position_embeddings": 32768,
}
_QWEN_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
_QWEN_7B: dict[str, Any] = _QWEN | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "num_hidden_layers": 1,
}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What to write."""

    method: Literal["unifilter", "mmssr", "aitqe"] = "unifilter"
    family: str
    """`model_type` of the stock language model."""
    architecture: str
    model_type: str
    text: dict[str, Any]
    special: dict[str, int]
    """Token -> id: the beginning, the end and the padding, in this order."""
    adds_bos: bool = False
    """Whether the tokenizer puts the first of them before a text."""

    @property
    def tokens(self) -> int:
        """Ids of the tokenizer; the published embeddings may have more rows."""
        return max(self.special.values()) + 1


GEOMETRIES = {
    "Qwen2.5-1.5B": Geometry(
        family="qwen2",
        architecture="LlavaQwenClassifier",
        model_type="llava_qwen",
        text=_QWEN
        | {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        special={"<s>": 151665, "<|im_end|>": 151645, "<|endoftext|>": 151643},
    ),
    "Qwen3-0.6B": Geometry(
        family="qwen3",
        architecture="LlavaQwen3Classifier",
        model_type="llava_qwen3",
        text=_QWEN
        | {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "max_position_embeddings": 40960,
        },
        special={"<s>": 151669, "<|im_end|>": 151645, "<|endoftext|>": 151643},
    ),
    "Llama-3.2-1B": Geometry(
        family="llama",
        architecture="LlavaLlamaClassifier",
        model_type="llava_llama",
        text={
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128256,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "max_position_embeddings": 131072,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
        },
        special={
            "<|begin_of_text|>": 128000,
            "<|eot_id|>": 128009,
            "<|finetune_right_pad_id|>": 128004,
        },
        adds_bos=True,
    ),
    "Phi-3-mini": Geometry(
        family="phi3",
        architecture="LlavaPhi3Classifier",
        model_type="llava_phi3",
        text={
            "hidden_act": "silu",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32064,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 2047,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 32000,
        },
        special={"<s>": 1, "<|endoftext|>": 32000, "<unk>": 0},
        adds_bos=True,
    ),
    "Gemma-2-2B": Geometry(
        family="gemma2",
        architecture="LlavaGemmaClassifier",
        model_type="llava_gemma",
        text={
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 256000,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 8192,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
        special={"<bos>": 2, "<eos>": 1, "<pad>": 0},
        adds_bos=True,
    ),
    "mmSSR-7B": Geometry(
        method="mmssr",
        family="qwen2",
        architecture="LlavaQwenForCausalLM",
        model_type="qwen2",
        text=_QWEN_7B,
        special=_QWEN_SPECIAL,
    ),
    "AITQE-7B": Geometry(
        method="aitqe",
        family="qwen2",
        architecture="MMForCausalLM",
        model_type="mm",
        text=_QWEN_7B,
        special=_QWEN_SPECIAL,
    ),
}


def write_folder(folder: Path, geometry: Geometry) -> None:
    """Write a checkpoint in its published layout, its tower's settings beside it."""
    folder.mkdir(parents=True)
    text = {"num_hidden_layers": 2} | geometry.text
    index: dict[str, str] = {}
    embeddings, *language = _language(geometry, text)
    # the embeddings alone in the first file, as where files are cut at so many gigabytes
    files = [[embeddings], language, _rest(geometry), _tower(geometry)]
    for number, names in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {name: _random(name, shape_of(name, text, TOWER)) for name in names}
        save_file(tensors, folder / file)
        index |= dict.fromkeys(names, file)
    _write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    _write(folder / "config.json", _config(geometry, text))
    _write(folder / "generation_config.json", {"eos_token_id": [151645, 151643]})
    _write_tokenizer(folder, geometry)
    place = folder.parent / TOWER_PATH
    _write(place / "config.json", TOWER)
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    size = {"size": {"height": 384, "width": 384}, "resample": 3}
    _write(place / "preprocessor_config.json", size | mean)


def _config(geometry: Geometry, text: dict[str, Any]) -> dict[str, Any]:
    config = text | {
        "architectures": [geometry.architecture],
        "model_type": geometry.model_type,
        "torch_dtype": "bfloat16",
    }
    if geometry.method == "aitqe":
        return config | {
            "image_aspect_ratio": "square",
            "image_tile_tokens": 729,
            "mm_projector_type": "mlp",
            "pesudo_img_size": 384,
            "pesudo_patch_size": 14,
            "pooling_kernel": 1,
            "vision_model_name_or_path": TOWER_PATH,
            "visual_hidden_dim": 1152,
        }
    config |= {"mm_hidden_size": 1152, "mm_vision_tower": TOWER_PATH}
    if geometry.method == "mmssr":
        return config | {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
    return config | {
        "id2label": {"0": "LABEL_0"},
        "mm_num_image_tokens": 144,
        "mm_projector_type": "aapool_mlp",
        "mm_vision_select_layer": -1,
        "tokenizer_model_max_length": 8192,
    }


def _language(geometry: Geometry, text: dict[str, Any]) -> list[str]:
    """The language model's tensors, its embeddings first."""
    prefix = "model.model." if geometry.method == "aitqe" else "model."
    names = [f"{prefix}embed_tokens.weight"]
    for number in range(text["num_hidden_layers"]):
        names += [f"{prefix}layers.{number}.{part}" for part in _layer(geometry.family)]
    return [*names, f"{prefix}norm.weight"]


def _layer(family: str) -> list[str]:
    """The tensors of a layer."""
    parts = [f"{name}.weight" for name in _norms(family)]
    parts += ["self_attn.o_proj.weight", "mlp.down_proj.weight"]
    if family == "phi3":
        return [*parts, "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"]
    parts += [f"mlp.{name}_proj.weight" for name in ("gate", "up")]
    for name in "qkv":
        parts.append(f"self_attn.{name}_proj.weight")
        if family == "qwen2":
            parts.append(f"self_attn.{name}_proj.bias")
        if family == "qwen3" and name != "v":
            parts.append(f"self_attn.{name}_norm.weight")
    return parts


def _norms(family: str) -> list[str]:
    more = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    return ["input_layernorm", "post_attention_layernorm", *(more if family == "gemma2" else [])]


def _rest(geometry: Geometry) -> list[str]:
    """Projector and head."""
    if geometry.method == "aitqe":
        projector = [f"mm_projector.{part}" for part in ("0.weight", "0.bias", "2.weight")]
        return ["model.lm_head.weight", *projector, "image_newline"]
    inner = "mlp_projector." if geometry.method == "unifilter" else ""
    parts = ("0.weight", "0.bias", "2.weight", "2.bias")
    names = [f"model.mm_projector.{inner}{part}" for part in parts]
    if geometry.method == "unifilter":
        return [*names, "score.weight"]
    return [*names, "lm_head.weight", "model.image_newline"]


def _tower(geometry: Geometry) -> list[str]:
    """The copy of the tower; mmSSR's is without the last layer."""
    start = "vision_model." if geometry.method == "aitqe" else "model.vision_tower.vision_tower."
    start += "vision_model."
    patches, positions = "embeddings.patch_embedding", "embeddings.position_embedding"
    names = [f"{start}{patches}.weight", f"{start}{patches}.bias", f"{start}{positions}.weight"]
    parts = ["layer_norm1", "layer_norm2"]
    parts += [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
    parts += ["mlp.fc1", "mlp.fc2"]
    both = "weight", "bias"
    for number in range(TOWER["num_hidden_layers"] - (geometry.method == "mmssr")):
        layer = f"{start}encoder.layers.{number}."
        names += [f"{layer}{part}.{kind}" for part in parts for kind in both]
    return [*names, *(f"{start}post_layernorm.{kind}" for kind in both)]


def shape_of(name: str, text: dict[str, Any], tower: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor by its name; `text` and `tower` are the configs of the two models."""
    in_tower = "vision_model." in name
    own = tower if in_tower else text
    hidden, inner, heads = (
        own[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    size = own.get("head_dim", hidden // heads)
    heads, keys = heads * size, own.get("num_key_value_heads", heads) * size
    patch, rows = tower["patch_size"], text["vocab_size"]
    outputs = {
        "qkv_proj": (heads + 2 * keys, hidden),
        "q_proj": (heads, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, heads),
        "out_proj": (hidden, heads),
        "gate_up_proj": (2 * inner, hidden),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "fc1": (inner, hidden),
        "fc2": (hidden, inner),
        "embed_tokens": (rows, hidden),
        "lm_head": (rows, hidden),
        "score": (1, hidden),
        "q_norm": (size,),
        "k_norm": (size,),
        "patch_embedding": (hidden, 3, patch, patch),
        "position_embedding": ((tower["image_size"] // patch) ** 2, hidden),
        "0": (hidden, tower["hidden_size"]),
        "2": (hidden, hidden),
    }
    *_, part, kind = ["", *name.split(".")]
    found = outputs.get(part, (hidden,))
    return found[:1] if kind == "bias" else found


_BLOCK = 4194301
"""Random numbers that are drawn; prime, so that the rows of a tensor that repeats them differ."""


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    """bfloat16 [shape]: of a size that keeps what goes through a model near 1."""
    count = math.prod(shape)
    start = sum(name.encode()) * 7919 % _BLOCK
    drawn = _drawn().repeat(math.ceil((start + count) / _BLOCK))[start : start + count]
    numbers = drawn.view(shape)
    if len(shape) == 1:
        is_norm = "norm" in name and name.endswith("weight")
        return (numbers * 0.1 + is_norm).bfloat16()
    if "embed_tokens" in name or "position_embedding" in name:
        return numbers.mul_(0.5)
    return numbers.mul_(math.prod(shape[1:]) ** -0.5)


def _drawn() -> Tensor:
    made = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(1))
    return made.bfloat16()


def _write_tokenizer(folder: Path, geometry: Geometry) -> None:
    """Bytes, and as many tokens more as the published tokenizer has; it merges nothing."""
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    special = {number: token for token, number in geometry.special.items()}
    vocabulary = {
        special.get(number) or next(alphabet, f"unused-{number}"): number
        for number in range(geometry.tokens)
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    begin, end, pad = (
        geometry.special
        if geometry.method == "unifilter"
        else (None, "<|im_end|>", "<|endoftext|>")
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in geometry.special])
    if geometry.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, geometry.special[str(begin)])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": begin, "eos_token": end, "pad_token": pad}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    _write(folder / "tokenizer_config.json", {k: v for k, v in settings.items() if v})


def _write(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def stored(folder: Path) -> Iterator[tuple[str, Path]]:
    """The names of all tensors, and where they are."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        yield name, folder / file

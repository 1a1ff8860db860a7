"""UniFilter's network: a vision tower, a projector, a language model, a head on the last token.

Stock transformers modules throughout, put together under the names of the published checkpoints
(Victorwz/UniFilter, llava/model: language_model, multimodal_projector/builder.py), so that a
released state dict is ours as it is.
"""

import re
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from mmsieve.methods.base import build_model, encode_patches, fitting, stock_tower
from mmsieve.methods.folders import stored_tensors
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter.checkpoint import ARCHITECTURES, Checkpoint

# Projectors: a vision tower's patches -> embeddings of the language model


def build_projector(kind: str, vision: int, hidden: int, tokens: int) -> nn.Module:
    """The projector of a kind, from `vision` wide features to `hidden` wide embeddings.

    `tokens` is what an image becomes under `aapool_mlp`; the others keep one per patch.
    """
    if kind == "aapool_mlp":
        return PooledProjector(vision, hidden, tokens)
    if kind == "linear":
        return nn.Linear(vision, hidden)
    if kind == "identity":
        return nn.Identity()
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None:
        raise ValueError(f"unknown projector {kind!r}")
    return _mlp(vision, hidden, int(match[1]))


class PooledProjector(nn.Module):
    """Average pooling on the square grid of patches, then a two-layer MLP."""

    def __init__(self, vision: int, hidden: int, tokens: int) -> None:
        super().__init__()
        self.side = isqrt(tokens)
        self.mlp_projector = _mlp(vision, hidden, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """[images, patches, vision] -> [images, side * side, hidden]."""
        side = isqrt(patches.shape[1])
        grid = patches.transpose(1, 2).reshape(*patches.shape[::2], side, side)
        pooled = nn.functional.adaptive_avg_pool2d(grid, self.side)
        embeddings: Tensor = self.mlp_projector(pooled.flatten(2).transpose(1, 2))
        return embeddings


def _mlp(vision: int, hidden: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(vision, hidden)]
    for _ in range(1, depth):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)


# The classifier: a vision tower, a projector, a language model, a head on the last token


class ScoreHead(nn.Linear):
    """The classifier's last layer: its product is float32 whatever the rest of the model computes.

    bfloat16 has 8 significant bits: scores from 2 to 4 would be multiples of 1/64, many of them
    equal, and which of those a cut keeps would be chance.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] of any precision -> [rows, labels] float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())


class QualityConfig(PreTrainedConfig):  # type: ignore[misc]
    """What a QualityClassifier is built from: two stock configs and the way between them."""

    model_type = "mmsieve_quality"

    def __init__(
        self,
        text_config: dict[str, Any] | None = None,
        vision_config: dict[str, Any] | None = None,
        projector: dict[str, Any] | None = None,
        select_layer: int = -1,
        keep_class_token: bool = False,
        **kwargs: Any,
    ) -> None:
        self.text_config = text_config or {"model_type": "qwen3"}
        self.vision_config = vision_config or {"model_type": "siglip_vision_model"}
        self.projector = projector or {"kind": "aapool_mlp", "tokens": 144}
        self.select_layer = select_layer
        self.keep_class_token = keep_class_token
        super().__init__(**kwargs)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "QualityConfig":
        """The config of a checkpoint folder."""
        tokens = int(checkpoint.config.get("mm_num_image_tokens", 144))
        return cls(
            text_config=checkpoint.text_config,
            vision_config=checkpoint.tower.config,
            projector={"kind": checkpoint.projector, "tokens": tokens},
            select_layer=checkpoint.select_layer,
            keep_class_token=checkpoint.select_feature == "cls_patch",
            num_labels=checkpoint.num_labels,
        )


class VisionTower(nn.Module):
    """A stock SigLIP or CLIP encoder, up to the layer that is used; its last norm never is."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision_tower = nn.ModuleDict({"vision_model": stock_tower(config)})

    def forward(self, pixels: Tensor, select_layer: int) -> Tensor:
        """Hidden states of normalised pixels, as `encode_patches` gives them."""
        return encode_patches(self.vision_tower["vision_model"], pixels, select_layer)


class LastPosition(nn.Module):
    """A layer's MLP at one position of each row, broadcast to the others, which nobody reads."""

    rows: Tensor
    positions: Tensor

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, length, hidden] -> [batch, 1, hidden]."""
        out: Tensor = self.mlp(hidden[self.rows, self.positions].unsqueeze(1))
        return out


class QualityClassifier(PreTrainedModel):  # type: ignore[misc]
    """Scores sequences of text and image embeddings, read at their last position."""

    config_class = QualityConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_flash_attn = True
    _keep_in_fp32_modules_strict: ClassVar = ["score"]

    def __init__(self, config: QualityConfig) -> None:
        super().__init__(config)
        text = AutoConfig.for_model(**config.text_config)
        vision = AutoConfig.for_model(**config.vision_config)
        attention = "eager" if text.model_type == "gemma2" else "sdpa"  # sdpa has no soft-capping
        self.model = AutoModel.from_config(text, attn_implementation=attention)
        self.model.vision_tower = VisionTower(vision)
        kind, tokens = config.projector["kind"], config.projector["tokens"]
        widths = (vision.hidden_size, text.hidden_size)
        self.model.mm_projector = build_projector(kind, *widths, tokens)
        self.score = ScoreHead(text.hidden_size, config.num_labels, bias=False)
        self.drop_class_token = vision.model_type.startswith("clip") and not config.keep_class_token
        self.post_init()

    def read_last_only(self) -> None:
        """From now on compute the last layer's MLP only where the head reads: for inference."""
        last = self.model.layers[-1]
        last.mlp = LastPosition(last.mlp)

    def set_labels(self, count: int) -> None:
        """A new head where the one there is has another number of outputs."""
        if count != self.config.num_labels:
            self.config.num_labels = count
            self.score = ScoreHead(self.score.in_features, count, bias=False)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[images, 3, size, size] normalised -> [images, tokens, hidden], to be spliced in."""
        patches = self.model.vision_tower(pixels, self.config.select_layer)
        if self.drop_class_token:
            patches = patches[:, 1:]
        embeddings = self.model.mm_projector(patches)
        # Gemma 2 scales inside its embedding; the published code scaled images and text alike.
        scale = getattr(self.model.embed_tokens, "embed_scale", None)
        return embeddings if scale is None else embeddings * scale  # type: ignore[no-any-return]

    def hidden_states(self, input_ids: Tensor, embeddings: Tensor) -> Tensor:
        """[batch, longest, hidden] of right-padded sequences, after the last norm.

        `input_ids` [batch, longest] holds IMAGE wherever an embedding of an image goes and
        anything beyond a row's end; `embeddings` [number of IMAGE ids, hidden] are those
        of all images, in order. Causal attention never looks at the padding, so no mask is made.
        """
        is_image = input_ids == IMAGE
        inputs = self.model.embed_tokens(input_ids.clamp(min=0))
        inputs = inputs.masked_scatter(is_image.unsqueeze(-1), embeddings.to(inputs.dtype))
        return self.model(inputs_embeds=inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def classify(self, input_ids: Tensor, lengths: Tensor, embeddings: Tensor) -> Tensor:
        """Logits [batch, labels], float32, of sequences of these `lengths` [batch].

        The rest is as in `hidden_states`.
        """
        rows = torch.arange(len(lengths), device=input_ids.device)
        if isinstance(last := self.model.layers[-1].mlp, LastPosition):
            last.rows, last.positions = rows, lengths - 1
        hidden = self.hidden_states(input_ids, embeddings)
        logits: Tensor = self.score(hidden[rows, lengths - 1])
        return logits

    def forward(
        self, input_ids: Tensor, lengths: Tensor, pixel_values: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Logits, and with `labels` the published loss: squared error, or cross-entropy."""
        embeddings = self.encode_images(pixel_values).flatten(0, 1)
        logits = self.classify(input_ids, lengths, embeddings)
        loss = None
        if labels is not None and self.config.num_labels == 1:
            loss = nn.functional.mse_loss(logits[:, 0].float(), labels.float())
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels.long())
        return SequenceClassifierOutput(loss=loss, logits=logits)


# Classifiers from and to folders in the published layout


def load_classifier(checkpoint: Checkpoint, dtype: str = "float32") -> QualityClassifier:
    """The classifier of a checkpoint folder, on the CPU, ready to score; raises RequestError."""
    with fitting(checkpoint.folder):
        config = QualityConfig.of(checkpoint)
    model: QualityClassifier
    state = stored_tensors(checkpoint.used)
    model, _ = build_model(QualityClassifier, dtype, checkpoint.folder, config, state)
    return model


def save_classifier(
    model: QualityClassifier, folder: Path, like: Checkpoint, own: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint folder that the published code and mmsieve both read.

    Config and tokenizer are those of `like`, the checkpoint that the model was built from; `own` is
    for `CheckpointFolder.write`. The tower's pooling head, which neither uses, is not written.
    """
    labels = model.config.num_labels
    left_out = ("id2label", "label2id", "num_labels", "dtype")
    config = {name: value for name, value in like.config.items() if name not in left_out}
    config["architectures"] = [ARCHITECTURES[config["model_type"]]]
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    if labels != 2:  # two is the default, which the published code leaves out
        config["id2label"] = {str(n): f"LABEL_{n}" for n in range(labels)}
        config["label2id"] = {f"LABEL_{n}": n for n in range(labels)}
    state = model.state_dict()
    state["score.weight"] = state["score.weight"].to(model.dtype)  # the head stays in float32
    like.write(folder, state, config, own, generates=False)

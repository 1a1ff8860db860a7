"""The classifier: a vision tower, a projector, a language model, a head on the last token.

Stock transformers modules throughout, put together under the names of the published checkpoints
(Victorwz/UniFilter, llava/model/language_model), so that a released state dict is ours as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from mmsieve.models.projector import build_projector
from mmsieve.models.released import Checkpoint
from mmsieve.models.tokenizer import IMAGE


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
        config = checkpoint.config
        text = {k: v for k, v in config.items() if not k.startswith("mm_") and k not in _NOT_TEXT}
        return cls(
            text_config={**text, "model_type": checkpoint.backbone},
            vision_config=checkpoint.tower.config,
            projector={
                "kind": checkpoint.projector,
                "tokens": int(config.get("mm_num_image_tokens", 144)),
            },
            select_layer=checkpoint.select_layer,
            keep_class_token=checkpoint.select_feature == "cls_patch",
            num_labels=checkpoint.num_labels,
        )


_NOT_TEXT = {
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "torch_dtype",
    "dtype",
    "mmsieve",
    "transformers_version",
    "model_type",
    "use_cache",
}


class VisionTower(nn.Module):
    """A stock SigLIP or CLIP encoder, up to the layer that is used; its last norm never is."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        if config.model_type.startswith("siglip"):
            config.vision_use_head = False
        model = AutoModel.from_config(config)
        stock = getattr(model, "vision_model", model)  # nested in some versions
        self.vision_tower = nn.ModuleDict({"vision_model": stock})

    def forward(self, pixels: Tensor, select_layer: int) -> Tensor:
        """[images, 3, size, size] normalised -> [images, patches (+ 1 for CLIP), width].

        `select_layer` counts hidden states as the published code does: 0 the embeddings, N what
        layer N puts out, -1 the last layer's output.
        """
        stock: Any = self.vision_tower["vision_model"]
        hidden = stock.embeddings(pixels)
        if hasattr(stock, "pre_layrnorm"):
            hidden = stock.pre_layrnorm(hidden)
        layers = stock.encoder.layers
        for layer in layers[
            : select_layer if select_layer >= 0 else len(layers) + 1 + select_layer
        ]:
            out = layer(hidden, attention_mask=None)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden  # type: ignore[no-any-return]


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

    def __init__(self, config: QualityConfig) -> None:
        super().__init__(config)
        text = AutoConfig.for_model(**config.text_config)
        vision = AutoConfig.for_model(**config.vision_config)
        attention = "eager" if text.model_type == "gemma2" else "sdpa"  # sdpa has no soft-capping
        self.model = AutoModel.from_config(text, attn_implementation=attention)
        self.model.vision_tower = VisionTower(vision)
        self.model.mm_projector = build_projector(
            config.projector["kind"],
            vision.hidden_size,
            text.hidden_size,
            config.projector["tokens"],
        )
        self.score = nn.Linear(text.hidden_size, config.num_labels, bias=False)
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
            self.score = nn.Linear(self.score.in_features, count, bias=False)

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
        """Logits [batch, labels] of sequences of these `lengths` [batch]; else `hidden_states`."""
        rows = torch.arange(len(lengths), device=input_ids.device)
        if isinstance(last := self.model.layers[-1].mlp, LastPosition):
            last.rows, last.positions = rows, lengths - 1
        hidden = self.hidden_states(input_ids, embeddings)
        logits: Tensor = self.score(hidden[rows, lengths - 1])
        return logits

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        pixel_values: Tensor,
        labels: Tensor | None = None,
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

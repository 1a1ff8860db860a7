"""What is minimised when a model learns to answer: the next token of its answers, nothing else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmsieve.images import ImageSpec
from mmsieve.models.tokenizer import IMAGE
from mmsieve.train.answers.examples import IGNORED
from mmsieve.train.objectives import Pixels

Encode = Callable[[Tensor], Tensor]
"""Pixels [images, 3, size, size], normalised -> embeddings [images, tokens, hidden]."""


class AnswerObjective(nn.Module):
    """Cross-entropy of answers under a stock model of images and text (Llava, LlavaOnevision)."""

    accepts_loss_kwargs = False
    """The loss is a mean over its batch: the Trainer divides by the batches of an update."""

    def __init__(self, model: Any, encode: Encode, spec: ImageSpec) -> None:
        super().__init__()
        self.generator = model
        self.pixels = Pixels(spec)
        self._encode = encode
        self.parts: dict[str, float] = {}
        """Of the last step: the share of answer tokens that are the likeliest ones."""

    def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """A batch of `mmsieve.train.answers.examples.collate_examples`."""
        hidden = self.hidden_states(batch)
        # A branch's first id is never an answer, so what comes before an answer is in its branch.
        told = labels[:, 1:] != IGNORED
        logits = self.generator.lm_head(hidden[:, :-1][told]).float()
        targets = labels[:, 1:][told]
        if self.training:
            self.parts = {"right": float((logits.argmax(-1) == targets).float().mean())}
        return {"loss": functional.cross_entropy(logits, targets)}

    def hidden_states(self, batch: dict[str, Tensor]) -> Tensor:
        """[rows, longest, hidden]: every branch reads the prefix and itself."""
        ids = batch["input_ids"]
        language = self.generator.model.language_model
        inputs = language.embed_tokens(ids.clamp(min=0))
        if "pixels" in batch:
            images = self._encode(self.pixels(batch["pixels"])).flatten(0, 1)
            inputs = inputs.masked_scatter((ids == IMAGE)[..., None], images.to(inputs.dtype))
        states: Tensor = language(
            inputs_embeds=inputs,
            attention_mask=_tree_mask(batch["segments"]),
            position_ids=batch["positions"],
            use_cache=False,
        ).last_hidden_state
        return states


def _tree_mask(segments: Tensor) -> Tensor:
    """[rows, 1, longest, longest] bool: what each id may look at, padding at itself alone."""
    here, there = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (causal & ((there == 0) | (there == here)))[:, None]

"""The published way to rate: one question about one sample at a time, each a generation.

Stock modules of transformers in float32, and a pass over all samples per question: 14 for the
capabilities and one for styles. Each pass opens and resizes the image and encodes it, as the
published scripts do. Answers are cut after as many tokens as real ones have: a checkpoint with
random weights would go on for 1,024.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmsieve.methods.mmssr.annotator import prompt_writer
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import IMAGE, STYLE_QUESTION, PromptWriter, capability_question
from mmsieve.methods.mmssr.model import load_rater
from mmsieve.sample import Sample

RATING_TOKENS = 2
"""A digit and the end."""
STYLE_TOKENS = 6
"""A label or two and the end."""


class PublishedLoop:
    """The scorer's and the styler's scripts, run one after the other."""

    def __init__(self, checkpoint: OneVision, capabilities: dict[str, str]) -> None:
        self._checkpoint = checkpoint
        self._capabilities = capabilities
        self._model = load_rater(checkpoint)

    def rate(self, samples: Sequence[Sample]) -> list[dict[str, int]]:
        """First answer token per sample and capability."""
        rows: list[dict[str, int]] = [{} for _ in samples]
        for name, keyword in self._capabilities.items():
            writer = self._ask(capability_question(keyword))
            for row, sample in zip(rows, samples, strict=True):
                row[name] = self._answer(writer, sample, RATING_TOKENS)[0]
        writer = self._ask(STYLE_QUESTION)
        for sample in samples:
            self._answer(writer, sample, STYLE_TOKENS)
        return rows

    def _ask(self, question: str) -> PromptWriter:
        return prompt_writer(self._checkpoint, [question], clean=False)

    @torch.inference_mode()
    def _answer(self, writer: PromptWriter, sample: Sample, count: int) -> list[int]:
        prompt, _ = writer.write(sample.turns)
        ids = torch.tensor([*prompt.shared, *prompt.ends[0]]).long()
        embeddings = self._model.get_input_embeddings()(ids.clamp(min=0))
        pieces, start = [], 0
        for place, image in zip(
            (ids == IMAGE).nonzero().flatten().tolist(), sample.images, strict=True
        ):
            pieces += [embeddings[start:place], self._encode(image.data)]
            start = place + 1
        whole = torch.cat([*pieces, embeddings[start:]])[None]
        answer = self._model.generate(
            inputs_embeds=whole,
            attention_mask=torch.ones(whole.shape[:2], dtype=torch.long),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )
        found: list[int] = answer[0].tolist()
        return found

    def _encode(self, data: bytes) -> Tensor:
        side = self._checkpoint.image.size
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.BICUBIC)
        pixels = torch.from_numpy((np.asarray(image, np.float32) / 255 - 0.5) / 0.5)
        hidden = self._model.model.vision_tower(
            pixels.permute(2, 0, 1)[None], output_hidden_states=True
        ).hidden_states[-2]
        patches = self._model.model.multi_modal_projector(hidden)[0]
        return torch.cat([patches, self._model.model.image_newline[None]])

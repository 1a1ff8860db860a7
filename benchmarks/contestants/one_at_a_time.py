"""The published AITQE loop as anyone would run it today: stock `generate`, a pair at a time.

Its settings are those of github.com/hanhuang22/AITQE, inference.py: greedy, one beam, a KV cache,
`stop_strings=["<Overall>"]`; the model is the stock Llava class, with SDPA, on the same weights.
"""

import io
import time

import PIL.Image
import torch

from mmsieve.methods.aitqe.annotator import Aitqe
from mmsieve.methods.aitqe.answers import MARKER
from mmsieve.methods.aitqe.inputs import read_caption
from mmsieve.methods.aitqe.model import load_enhancer
from mmsieve.methods.tokenizer import open_tokenizer
from mmsieve.sample import Sample


class OneAtATime:
    """Loads once, then answers for all samples whenever asked."""

    def __init__(
        self, annotator: Aitqe, samples: list[Sample], device: str, dtype: str, new_tokens: int
    ) -> None:
        checkpoint = annotator.checkpoint
        self._samples, self._device, self._most = samples, device, new_tokens
        self._encoder, self._spec = annotator.preparer(), checkpoint.tower.image
        self._tokenizer = open_tokenizer(checkpoint.folder)
        self._model = load_enhancer(checkpoint, dtype).to(device)
        self._image = checkpoint.image_tokens
        self._tokens = 0

    @torch.inference_mode()
    def run(self, most: int | None = None) -> None:
        """Answer for each sample, one after the other."""
        for sample in self._samples:
            with PIL.Image.open(io.BytesIO(sample.images[0].data)) as opened:
                size = (self._spec.size, self._spec.size)
                image = opened.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            values = pixels.view(1, *size, 3).permute(0, 3, 1, 2).to(self._device).float()
            embeddings = self._embeddings(values / 127.5 - 1, read_caption(sample))
            made = self._model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], device=self._device),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=most or self._most,
                stop_strings=[MARKER],
                tokenizer=self._tokenizer,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            self._tokens += made.shape[1]
            self._tokenizer.decode(made[0], skip_special_tokens=True)

    def _embeddings(self, pixels: torch.Tensor, caption: str) -> torch.Tensor:
        """Image features by the stock tower, spliced in front of the text as published."""
        images = self._model.model.get_image_features(pixels.to(self._model.dtype)).pooler_output
        ids, _ = self._encoder.encode(caption)
        text = self._model.get_input_embeddings()(torch.tensor([ids], device=self._device))
        return torch.cat([torch.stack(list(images)), text], 1)

    def asked(self) -> int:
        """Tokens that the model chose since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens

    def prefill_share(self) -> float:
        """How much of its time goes until the first token, the image included."""
        spent = []
        for most in (1, None):
            clock = time.process_time if self._device == "cpu" else time.perf_counter
            started = clock()
            self.run(most)
            spent.append(clock() - started)
        return spent[0] / spent[1]

"""What is minimised: modules that take a batch and give a loss, as the stock Trainer wants them."""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmsieve.images import ImageSpec
from mmsieve.labels import POSITIVE
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter.model import QualityClassifier
from mmsieve.training.data import IGNORED, RIGHT
from mmsieve.training.recipe import ClassifierStage

_PLAIN_WORDS = 0.2
"""Weight of a word that states nothing, beside one that states a fact: guessing how a sentence
goes on would drown what the image says."""


class Pixels(nn.Module):
    """uint8 pixels to what the tower takes.

    Mean and deviation are no buffers: DeepSpeed would round those to bfloat16.
    """

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self._scale, self._mean, self._std = spec.scale, spec.mean, spec.std

    def forward(self, pixels: Tensor) -> Tensor:
        """[images, size, size, 3] uint8 -> [images, 3, size, size] normalised."""
        found = (torch.tensor(values, device=pixels.device) for values in (self._mean, self._std))
        mean, std = (values.view(1, 3, 1, 1) for values in found)
        return (pixels.permute(0, 3, 1, 2).float() * self._scale - mean) / std


class _Objective(nn.Module):
    learner: ClassVar[str] = "classifier"
    """Name of the module that is trained, beside what only its loss needs."""
    accepts_loss_kwargs = False
    """Each loss is a mean over its batch: the Trainer divides by the batches of an update."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.pixels = Pixels(spec)
        self.parts: dict[str, float] = {}
        """What the last step is logged with beside its loss."""

    @property
    def model(self) -> Any:
        """What is trained."""
        return self.get_submodule(self.learner)

    @property
    def _no_split_modules(self) -> list[str]:
        """Classes of the layers that FSDP shards one at a time, under the name it looks for."""
        modules = list(self.model.modules())
        names = {n for one in modules for n in getattr(one, "_no_split_modules", None) or ()}
        return sorted(names & {type(one).__name__ for one in modules})


class PretextObjective(_Objective):
    """A tower's pretext task: of each patch of a picture to say which cell it is and what is there.

    One linear layer per question on the tower's last layer, thrown away afterwards. Where patches
    are finer than cells, each is asked of the cell that it lies in.
    """

    def __init__(self, model: QualityClassifier, spec: ImageSpec, classes: Sequence[int]) -> None:
        super().__init__(spec)
        self.classifier = model
        width = model.model.vision_tower.vision_tower["vision_model"].config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in classes)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`labels` [images, cells, questions]; the loss is the sum over questions."""
        tower = self.classifier.model.vision_tower
        patches = tower(self.pixels(pixels), self.classifier.config.select_layer)
        cells = isqrt(labels.shape[1])
        finer = isqrt(patches.shape[1]) // cells
        grid = labels.view(len(labels), cells, cells, -1)
        labels = grid.repeat_interleave(finer, 1).repeat_interleave(finer, 2).flatten(1, 2)
        logits = [head(patches) for head in self.heads]
        losses = [
            functional.cross_entropy(one.flatten(0, 1).float(), labels[..., index].flatten())
            for index, one in enumerate(logits)
        ]
        guesses = torch.stack([one.argmax(-1) for one in logits], -1)
        return {"loss": torch.stack(losses).sum(), "logits": guesses}


class CaptionObjective(_Objective):
    """Stage 1: the next token of captions of level 3; only the projector learns.

    `table` [vocabulary, hidden] turns hidden states into logits: the language model's own output
    embedding. As pretrain.sh of Victorwz/UniFilter, but for the prompt, which is that of scoring.
    """

    table: Tensor

    def __init__(self, model: QualityClassifier, spec: ImageSpec, table: Tensor) -> None:
        super().__init__(spec)
        self.classifier = model
        self.register_buffer("table", table.detach(), persistent=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("mm_projector" in name)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """A batch of `collate_groups`."""
        hidden = _hidden(self.classifier, self.pixels, batch)
        cap = getattr(self.classifier.model.config, "final_logit_softcapping", None)
        return {"loss": _captioning(hidden, batch, self.table.to(hidden.dtype), cap)}


class QualityObjective(_Objective):
    """Stage 2: the level, as published, and two losses that teach what to look at from scratch.

    The level: squared error of a single output, or cross-entropy of several. Captioning: the next
    token of texts of level 3, and of the words of any text that state a right fact, through the
    tied embeddings. Wrong words: for each word that states a fact, whether the image contradicts
    it. From random weights the level alone does not get off the ground.
    """

    def __init__(self, model: QualityClassifier, spec: ImageSpec, stage: ClassifierStage) -> None:
        super().__init__(spec)
        self.classifier = model
        self._captioning, self._wrong_words = stage.captioning, stage.wrong_words
        self.word = nn.Linear(model.score.in_features, 1) if stage.wrong_words else None
        if not stage.tower_rate:
            model.model.vision_tower.requires_grad_(False)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """A batch of `collate_groups`; `logits` [rows] are scores as `score` gives."""
        hidden = _hidden(self.classifier, self.pixels, batch)
        rows = torch.arange(len(batch["lengths"]), device=hidden.device)
        logits = self.classifier.score(hidden[rows, batch["lengths"] - 1]).float()
        if logits.shape[1] == 1:
            losses = {"level": functional.mse_loss(logits[:, 0], batch["labels"].float())}
        else:
            losses = {"level": functional.cross_entropy(logits, batch["labels"].long())}
        if self.training and self._captioning:
            table = self.classifier.model.embed_tokens.weight
            losses["captioning"] = self._captioning * _captioning(hidden, batch, table)
        if self.training and self.word is not None:
            losses["wrong_words"] = self._wrong_words * self._words(hidden, batch["facts"])
        if self.training:
            self.parts = {name: float(loss.detach()) for name, loss in losses.items()}
        return {
            "loss": torch.stack(list(losses.values())).sum(),
            "logits": _scores(logits.detach()),
        }

    def _words(self, hidden: Tensor, facts: Tensor) -> Tensor:
        assert self.word is not None
        known = facts != IGNORED
        if not known.any():  # a file's texts have no known words
            return 0.0 * self.word.weight.sum()
        guesses = self.word(hidden[known])[:, 0].float()
        return functional.binary_cross_entropy_with_logits(guesses, facts[known].float())


def _hidden(model: QualityClassifier, pixels: Pixels, batch: dict[str, Tensor]) -> Tensor:
    """[rows, longest, hidden] of a batch; each image goes through the tower once."""
    images = model.encode_images(pixels(batch["pixels"]))
    return model.hidden_states(batch["input_ids"], images.flatten(0, 1)[batch["shown"]])


def _scores(logits: Tensor) -> Tensor:
    """[rows, labels] -> [rows]: the output itself, or the expected level (`levels.quality`)."""
    if logits.shape[1] == 1:
        return logits[:, 0].clone()
    return logits.softmax(-1) @ torch.arange(logits.shape[1], device=logits.device).float()


def _captioning(
    hidden: Tensor, batch: dict[str, Tensor], table: Tensor, cap: float | None = None
) -> Tensor:
    """Cross-entropy of the next token, words that state facts weighing more than the others."""
    ids, states = batch["input_ids"][:, 1:], hidden[:, :-1]
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    text = (ids != IMAGE) & (places < batch["lengths"][:, None])
    positive = (batch["labels"] == POSITIVE)[:, None] & text
    weights = _PLAIN_WORDS * positive.float() + (batch["facts"][:, 1:] == RIGHT).float()
    learnt = weights > 0
    logits = (states[learnt] @ table.T).float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    losses = functional.cross_entropy(logits, ids[learnt], reduction="none")
    return (losses * weights[learnt]).sum() / weights[learnt].sum().clamp(min=_PLAIN_WORDS)


# Of supervised fine-tuning: the next token of completions

Encode = Callable[[Tensor], Tensor]
"""Pixels [images, 3, size, size], normalised -> embeddings [images, tokens, hidden]."""


class SftObjective(_Objective):
    """Cross-entropy of completions under a stock Llava or LlavaOnevision model."""

    learner = "generator"

    def __init__(self, model: Any, encode: Encode, spec: ImageSpec) -> None:
        super().__init__(spec)
        self.generator = model
        self._encode = encode

    def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """A batch of `collate_examples`."""
        hidden = self.hidden_states(batch)
        # A branch's first id is never learnt, so what comes before a completion is in its branch.
        is_target = labels[:, 1:] != IGNORED
        logits = self.generator.lm_head(hidden[:, :-1][is_target]).float()
        targets = labels[:, 1:][is_target]
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

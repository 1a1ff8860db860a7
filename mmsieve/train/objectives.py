"""What is minimised: modules that take a batch and give a loss, as the stock Trainer wants them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmsieve.images import ImageSpec
from mmsieve.levels import POSITIVE
from mmsieve.models.classifier import QualityClassifier
from mmsieve.train.data import IGNORED, RIGHT

_PLAIN_WORDS = 0.2
"""Weight of a word that states nothing, beside one that states a fact: guessing how a sentence
goes on would drown what the image says."""


class _Pixels(nn.Module):
    """uint8 pixels to what the tower takes."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self._scale = spec.scale
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(shape), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[images, size, size, 3] uint8 -> [images, 3, size, size] normalised."""
        return (pixels.permute(0, 3, 1, 2).float() * self._scale - self.mean) / self.std


class TowerObjective(nn.Module):
    """Reads from each patch of a rendered scene which cell it is, and what is in it.

    One linear layer per question on the tower's last layer; they are thrown away afterwards.
    """

    def __init__(self, model: QualityClassifier, spec: ImageSpec, classes: Sequence[int]) -> None:
        super().__init__()
        self.classifier = model
        self.pixels = _Pixels(spec)
        width = model.model.vision_tower.vision_tower["vision_model"].config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in classes)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`labels` [images, cells, questions]; the loss is the sum over questions."""
        tower = self.classifier.model.vision_tower
        patches = tower(self.pixels(pixels), self.classifier.config.select_layer)
        logits = [head(patches) for head in self.heads]
        losses = [
            functional.cross_entropy(one.flatten(0, 1).float(), labels[..., index].flatten())
            for index, one in enumerate(logits)
        ]
        guesses = torch.stack([one.argmax(-1) for one in logits], -1)
        return {"loss": torch.stack(losses).sum(), "logits": guesses}


class QualityObjective(nn.Module):
    """Squared error of the level, as published, and two losses that teach what to look at.

    Captioning: the next token of texts of level 3, and of the words of any text that state a right
    fact, through the tied embeddings. Wrong words: for each word that states a fact, whether the
    image contradicts it (a linear layer that is thrown away afterwards). From scratch the level
    alone does not get off the ground.
    """

    def __init__(
        self, model: QualityClassifier, spec: ImageSpec, captioning: float, wrong_words: float
    ) -> None:
        super().__init__()
        self.classifier = model
        self.pixels = _Pixels(spec)
        self.word = nn.Linear(model.score.in_features, 1)
        self._captioning = captioning
        self._wrong_words = wrong_words
        self.parts: dict[str, float] = {}
        """Each loss of the last step."""

    def forward(
        self,
        pixels: Tensor,
        shown: Tensor,
        input_ids: Tensor,
        facts: Tensor,
        lengths: Tensor,
        labels: Tensor,
        kinds: Tensor,
    ) -> dict[str, Tensor]:
        """A batch of `mmsieve.train.data.collate`."""
        embeddings = self.classifier.encode_images(self.pixels(pixels)).flatten(0, 1)[shown]
        hidden = self.classifier.hidden_states(input_ids, embeddings)
        rows = torch.arange(len(lengths), device=lengths.device)
        scores = self.classifier.score(hidden[rows, lengths - 1])[:, 0].float()
        losses = {"level": functional.mse_loss(scores, labels.float())}
        if self.training:
            losses["captioning"] = self._captioning * self._language(
                hidden, input_ids, facts, labels
            )
            losses["wrong_words"] = self._wrong_words * self._words(hidden, facts)
            self.parts = {name: float(loss.detach()) for name, loss in losses.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), "logits": scores}

    def _language(self, hidden: Tensor, input_ids: Tensor, facts: Tensor, labels: Tensor) -> Tensor:
        ids, states = input_ids[:, 1:], hidden[:, :-1]
        # Neither images nor padding, whose id no text has.
        positive = (labels == POSITIVE)[:, None] & (ids > 0)
        weights = _PLAIN_WORDS * positive.float() + (facts[:, 1:] == RIGHT).float()
        told = weights > 0
        table = self.classifier.model.embed_tokens.weight
        logits = (states[told] @ table.T).float()
        losses = functional.cross_entropy(logits, ids[told], reduction="none")
        return (losses * weights[told]).sum() / weights[told].sum()

    def _words(self, hidden: Tensor, facts: Tensor) -> Tensor:
        told = facts != IGNORED
        guesses = self.word(hidden[told])[:, 0].float()
        return functional.binary_cross_entropy_with_logits(guesses, facts[told].float())

"""Greedy decoding of rows of any length together, and many questions over one shared prefix.

Prompts are embeddings, padded on the left, with right positions; keys and values are cached, and
rows that are done leave the batch. Where only one token is allowed next, the model isn't asked:
a run of such tokens goes through it in one step, before the next choice.

Each question's tokens see the shared prefix and their own ancestors only, and stand at the
positions that they have in a prompt of their own, so every answer is the one of a separate pass
(tree attention: Cai et al., arXiv 2401.10774). What questions have in common is one branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

# Greedy decoding of rows of any length together: a row's answer is the one it has alone

Options: TypeAlias = Sequence[int] | Tensor
"""Tokens to choose from."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """When an answer ends, and what may come next in it; called with the ids generated so far."""

    max_new_tokens: int
    end_ids: frozenset[int]
    """Any of these is an answer's last token."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that were generated before, multiplies the others
    (Keskar et al., arXiv 1909.05858); the prompt's tokens don't count."""
    stop: Callable[[list[int]], bool] | None = None
    """Whether the answer is done."""
    allowed: Callable[[list[int]], Options | None] | None = None
    """The tokens of which the next is one; None: any."""

    def is_done(self, ids: list[int]) -> bool:
        """Whether nothing comes after these ids."""
        if len(ids) >= self.max_new_tokens or (ids and ids[-1] in self.end_ids):
            return True
        return self.stop is not None and bool(ids) and self.stop(ids)

    def follow(self, ids: list[int]) -> Options | None:
        """Append every token that has no alternative; what is allowed after them (None: any)."""
        while self.allowed is not None and not self.is_done(ids):
            options = self.allowed(ids)
            if options is None or len(options) != 1:
                return options
            ids.append(int(options[0]))
        return None


class LanguageModel:
    """The language part of a stock model: embeddings, layers, head."""

    def __init__(self, model: Any) -> None:
        """`model` is a stock ForCausalLM, or a ForConditionalGeneration with images."""
        self.body: nn.Module = model.get_decoder()
        self.head: nn.Module = model.get_output_embeddings()
        self._embedding: nn.Module = model.get_input_embeddings()
        # its name in transformers changed on the way from 5.0 to 5.23
        names = signature(self.body.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"

    def hidden(self, embeddings: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """[rows, length, hidden] -> the same after the last norm; the cache grows.

        `mask` [rows, cached + length] is 0 for padding, which takes no position.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        device = embeddings.device
        return self.run(embeddings, mask.to(device), positions.to(device), cache)

    def run(
        self, embeddings: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache
    ) -> Tensor:
        """[rows, length, hidden] -> the same after the last norm; the cache grows.

        `mask` is None (each token sees those before it), [rows, cached + length], or
        [rows, 1, length, cached + length]: which token sees which.
        """
        out: Tensor = self.body(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: cache},
        ).last_hidden_state
        return out

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """[...] -> [..., hidden]."""
        weight: Any = self._embedding.weight
        embeddings: Tensor = self._embedding(torch.as_tensor(ids).long().to(weight.device))
        return embeddings


@torch.inference_mode()
def decode_greedily(
    model: LanguageModel,
    prompts: Sequence[Tensor],
    rules: Decoding,
    past: DynamicCache | None = None,
    past_mask: Tensor | None = None,
) -> list[list[int]]:
    """The generated ids of each prompt, the end token included.

    `prompts` are embeddings [length, hidden], none of them empty. `past` holds what every prompt
    has in front of it, a row per prompt; it is used up. `past_mask` [rows, cached] is 0 where it
    holds padding.
    """
    batch = _DecodingBatch(model, len(prompts), past, past_mask)
    answers: list[list[int]] = [[] for _ in prompts]
    options = [rules.follow(answer) for answer in answers]
    live = [row for row, answer in enumerate(answers) if not rules.is_done(answer)]
    batch.keep(live)
    inputs = [torch.cat([prompts[row], model.embed(answers[row])]) for row in live]
    while live:
        logits = _penalise(batch.step(inputs), [answers[row] for row in live], rules)
        chosen = _choose(logits, [options[row] for row in live])
        places, inputs = [], []
        for place, (row, token) in enumerate(zip(live, chosen, strict=True)):
            answer = answers[row]
            known = len(answer)
            answer.append(token)
            options[row] = rules.follow(answer)
            if not rules.is_done(answer):
                places.append(place)
                inputs.append(model.embed(answer[known:]))
        if len(places) < len(live):
            live = [live[place] for place in places]
            batch.keep(places)
    return answers


class _DecodingBatch:
    """The rows under way: their cache, and which of its columns are padding."""

    def __init__(
        self, model: LanguageModel, rows: int, past: DynamicCache | None, mask: Tensor | None
    ) -> None:
        self._model = model
        self._cache = DynamicCache() if past is None else past
        cached = self._cache.get_seq_length()
        self._mask = torch.ones(rows, cached, dtype=torch.long) if mask is None else mask.cpu()

    def keep(self, rows: list[int]) -> None:
        """Let go of all rows but these."""
        if len(rows) == len(self._mask):
            return
        if rows and self._cache.get_seq_length():
            self._cache.batch_select_indices(torch.tensor(rows))
        self._mask = self._mask[rows]

    def step(self, inputs: list[Tensor]) -> Tensor:
        """Logits [rows, vocabulary] after each row's next embeddings [length, hidden]."""
        padded = pad_sequence(inputs, batch_first=True, padding_side="left")
        fresh = [torch.ones(len(own), dtype=torch.long) for own in inputs]
        mask = pad_sequence(fresh, batch_first=True, padding_side="left")
        self._mask = torch.cat([self._mask, mask], 1)
        hidden = self._model.hidden(padded, self._mask, self._cache)
        logits: Tensor = self._model.head(hidden[:, -1]).float()
        return logits


def _penalise(logits: Tensor, answers: list[list[int]], rules: Decoding) -> Tensor:
    if rules.repetition_penalty == 1.0:
        return logits
    for row, answer in zip(logits, answers, strict=True):
        seen = torch.tensor(sorted(set(answer)), device=logits.device, dtype=torch.long)
        values = row[seen]
        penalty = rules.repetition_penalty
        row[seen] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def _choose(logits: Tensor, options: list[Options | None]) -> list[int]:
    for row, allowed in zip(logits, options, strict=True):
        if allowed is not None:
            places = torch.as_tensor(allowed, device=logits.device)
            values = row[places]
            row.fill_(-torch.inf)
            row[places] = values
    chosen: list[int] = logits.argmax(1).tolist()
    return chosen


# Many questions over one prefix: the prefix is computed once, the questions as a tree


@dataclass(frozen=True)
class Tree:
    """Token sequences with their common prefixes merged; parents come before children."""

    ids: npt.NDArray[np.int64]
    """[nodes]."""
    depths: npt.NDArray[np.int64]
    """[nodes]: 0 for the first token of a sequence."""
    sees: npt.NDArray[np.bool_]
    """[nodes, nodes]: whether a node sees another, an ancestor or itself."""
    paths: tuple[npt.NDArray[np.int64], ...]
    """Per sequence the nodes of its tokens."""


@lru_cache(1024)
def build_tree(sequences: tuple[tuple[int, ...], ...]) -> Tree:
    """The tree of token sequences, none of them empty."""
    nodes: dict[tuple[int, ...], int] = {}
    paths = []
    for sequence in sequences:
        beginnings = (sequence[: end + 1] for end in range(len(sequence)))
        paths.append(np.array([nodes.setdefault(start, len(nodes)) for start in beginnings]))
    sees = np.zeros((len(nodes), len(nodes)), np.bool_)
    for path in paths:
        for depth, node in enumerate(path):
            sees[node, path[: depth + 1]] = True
    return Tree(
        ids=np.array([start[-1] for start in nodes]),
        depths=np.array([len(start) - 1 for start in nodes]),
        sees=sees,
        paths=tuple(paths),
    )


@dataclass(frozen=True)
class Prefilled:
    """Rows whose shared prefixes are computed."""

    cache: DynamicCache
    mask: Tensor
    """[rows, longest], on the CPU: 0 for padding, which is on the right."""


def prefill(model: LanguageModel, rows: Sequence[Tensor]) -> Prefilled:
    """Compute the shared prefixes, embeddings [length, hidden] each.

    Causal attention never looks at padding on the right, so no mask is made.
    """
    padded = pad_sequence(list(rows), batch_first=True)
    cache = DynamicCache()
    positions = torch.arange(padded.shape[1], device=padded.device)[None]
    model.run(padded, None, positions, cache)
    mask = [torch.ones(len(row), dtype=torch.long) for row in rows]
    return Prefilled(cache, pad_sequence(mask, batch_first=True))


def forward_tree(model: LanguageModel, prefilled: Prefilled, trees: Sequence[Tree]) -> Tensor:
    """[leaves of all trees, in order, hidden], after the last norm; the cache is left as it was."""
    rows, before = prefilled.mask.shape
    nodes = max(len(tree.ids) for tree in trees)
    ids = torch.zeros(rows, nodes, dtype=torch.long)
    positions = torch.zeros(rows, nodes, dtype=torch.long)
    sees = torch.zeros(rows, nodes, before + nodes, dtype=torch.bool)
    sees[:, :, :before] = prefilled.mask[:, None].bool()
    lengths = prefilled.mask.sum(1).tolist()
    for row, (tree, length) in enumerate(zip(trees, lengths, strict=True)):
        size = len(tree.ids)
        ids[row, :size] = torch.from_numpy(tree.ids)
        positions[row, :size] = length + torch.from_numpy(tree.depths)
        sees[row, :size, before : before + size] = torch.from_numpy(tree.sees)
    embeddings = model.embed(ids)
    device = embeddings.device
    hidden = model.run(embeddings, sees[:, None].to(device), positions.to(device), prefilled.cache)
    prefilled.cache.crop(-nodes)
    leaves = [torch.tensor([path[-1] for path in tree.paths], device=device) for tree in trees]
    return torch.cat([row[own] for row, own in zip(hidden, leaves, strict=True)])

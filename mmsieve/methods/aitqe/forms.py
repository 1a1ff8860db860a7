"""What a server's answer is held to, where the model has learnt answers piece by piece."""

import json
from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer

from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.answers import (
    AssessmentError,
    answer_pattern,
    longest_answer,
    read_answer,
    value_limits,
)
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.base import Portable
from mmsieve.methods.tokenizer import TokenizerSpec, encode_piece, load_tokenizer


@dataclass(frozen=True)
class AnswerForm(Portable):
    """A regular expression of answers, as the torch runner's form without tokens."""

    tokenizer: TokenizerSpec
    keys: tuple[str, ...]
    max_new_tokens: int

    @classmethod
    def of(cls, checkpoint: EnhancerCheckpoint, enhancing: EnhanceOptions) -> "AnswerForm | None":
        """The form that a checkpoint has learnt; None for a released one, which writes freely."""
        if checkpoint.own is None:
            return None
        return cls(load_tokenizer(checkpoint.folder), enhancing.keys, enhancing.max_new_tokens)

    @cached_property
    def _backend(self) -> Tokenizer:
        return self.tokenizer.build()

    @property
    def pattern(self) -> str:
        """The regular expression."""
        return answer_pattern(self.keys, self.max_new_tokens)

    @property
    def max_tokens(self) -> int:
        """Tokens that an answer may take."""
        return longest_answer(self.keys, self.max_new_tokens)

    def is_cut(self, text: str) -> bool:
        """Whether the rewrite in an answer is as long as it may be, or longer."""
        try:
            said = read_answer(text).recaption
        except AssessmentError:
            return False
        inside = json.dumps(said or "", ensure_ascii=False)[1:-1]
        length = len(encode_piece(self._backend, inside))
        return length >= value_limits(self.keys, self.max_new_tokens)[0]

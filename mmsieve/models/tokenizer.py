"""Tokenizers of checkpoints, as what worker processes need of them: a string and three ids.

The `tokenizers` library alone rebuilds one from its JSON, so workers import no transformers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mmsieve.errors import RequestError
from mmsieve.models.quiet import quiet

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""Every file that decides how text becomes ids."""


@dataclass(frozen=True)
class TokenizerSpec:
    """A tokenizer, ready to travel: its backend's JSON and the ids that scoring looks at."""

    json: str
    bos: int | None
    eos: int | None
    pad: int | None

    def build(self, plain: bool = False) -> Tokenizer:
        """The tokenizer; `plain` reads control strings in a text as ordinary text."""
        tokenizer = Tokenizer.from_str(self.json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = plain
        return tokenizer


def load_tokenizer(folder: Path) -> TokenizerSpec:
    """The tokenizer of a checkpoint folder; raises RequestError where there is none.

    `tokenizer.json` is taken as it is: transformers' AutoTokenizer fails on the model types of
    released classifiers, and rebuilds another tokenizer for some. Folders with only the slow
    files (released ones were trained with slow tokenizers) go through the stock classes.
    """
    with quiet():
        tokenizer = _stock_class(folder).from_pretrained(str(folder), local_files_only=True)
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return TokenizerSpec(tokenizer.backend_tokenizer.to_str(), *ids)


def check_tokenizer(folder: Path) -> None:
    """Raise RequestError where the folder holds no tokenizer."""
    if not any(_has(folder, *files) for files in _LAYOUTS):
        wanted = " or ".join(" + ".join(files) for files in _LAYOUTS)
        raise RequestError(f"no tokenizer in {folder}: it needs {wanted}")


_LAYOUTS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))


def _has(folder: Path, *files: str) -> bool:
    return all((folder / file).is_file() for file in files)


def _stock_class(folder: Path) -> Any:
    import transformers

    check_tokenizer(folder)
    if _has(folder, "tokenizer.json"):
        return transformers.PreTrainedTokenizerFast
    if _has(folder, "vocab.json", "merges.txt"):
        return transformers.Qwen2Tokenizer
    if "gemma" in _config_text(folder):
        return transformers.GemmaTokenizer
    return transformers.LlamaTokenizer


def _config_text(folder: Path) -> str:
    names = ("config.json", "tokenizer_config.json")
    return "".join((folder / n).read_text("utf-8") for n in names if (folder / n).is_file()).lower()

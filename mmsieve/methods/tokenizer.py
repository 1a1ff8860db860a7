"""Tokenizers of checkpoints, as what worker processes need of them: a string and three ids.

The `tokenizers` library alone rebuilds one from its JSON, so workers import no transformers.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from mmsieve.devices import quiet
from mmsieve.errors import RequestError, is_order_to_end
from mmsieve.methods.folders import read_json
from mmsieve.stores.asking import one_line

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


IMAGE = -200
"""The id that stands for an image in a prompt, or for one of its embeddings, as published."""


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


def encode_piece(tokenizer: Tokenizer, piece: str) -> list[int]:
    """The ids of a piece of a prompt, without the first and the last token of a whole one."""
    return tokenizer.encode(piece, add_special_tokens=False).ids


def load_tokenizer(folder: Path, rows: int | None = None) -> TokenizerSpec:
    """The tokenizer of a checkpoint folder; raises RequestError where there is none.

    Nor may it give ids from `rows` on, that of the embeddings.

    `tokenizer.json` is taken as it is: transformers' AutoTokenizer fails on the model types of
    released classifiers, and rebuilds another tokenizer for some. Folders with only the slow
    files (released ones were trained with slow tokenizers) go through the stock classes.
    """
    check_tokenizer(folder)
    tokenizer = open_tokenizer(folder, rows=rows)
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    spec = TokenizerSpec(tokenizer.backend_tokenizer.to_str(), *ids)
    with _naming(folder):
        spec.build()  # what the library writes of a broken one it may not read again
    return spec


def open_tokenizer(folder: Path, stock: str | None = None, rows: int | None = None) -> Any:
    """A transformers tokenizer, of the class `stock` or else by its files; raises RequestError.

    None of its ids may be `rows`, that of the embeddings, or more.
    """
    import transformers

    _check_ids(folder, rows or _MOST_IDS)

    with _naming(folder), quiet():
        if stock is None:
            return _load(folder)
        return getattr(transformers, stock).from_pretrained(folder, local_files_only=True)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Name the folder of a tokenizer that can't be read."""
    try:
        yield
    except BaseException as error:  # the tokenizers library raises nothing narrower, or panics
        if is_order_to_end(error):
            raise
        reason = one_line(error)
        raise RequestError(f"{folder}: its tokenizer can't be read: {reason}") from error


_MOST_IDS = 1 << 24
"""The tokenizers library counts up to the highest id: a wrong one takes it a minute."""


def _check_ids(folder: Path, rows: int) -> None:
    """Raise RequestError for an id that no embedding is of, from the files alone."""
    for name, find in _IDS.items():
        file = folder / name
        if not file.is_file():
            continue
        found = [i for i in find(read_json(file)) if isinstance(i, int)]
        if found and (max(found) >= rows or min(found) < 0):
            wrong = next(i for i in found if not 0 <= i < rows)
            raise RequestError(
                f"{file}: there is an id {wrong}, and {rows} tokens at most: take the files of one "
                "model"
            )


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _ids_of_json(tokenizer: dict[str, Any]) -> list[Any]:
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    ids = _values(model.get("vocab")) if isinstance(model, dict) else []
    tokens = added if isinstance(added, list) else []
    return ids + [token.get("id") for token in tokens if isinstance(token, dict)]


def _ids_of_config(config: dict[str, Any]) -> list[Any]:
    added = config.get("added_tokens_decoder")
    return [int(i) for i in added if re.fullmatch("[0-9]{1,18}", i)] if added else []


_IDS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "tokenizer.json": _ids_of_json,
    "vocab.json": _values,
    "added_tokens.json": _values,
    "tokenizer_config.json": _ids_of_config,
}
"""File -> the ids in it."""


def check_tokenizer(folder: Path) -> None:
    """Raise RequestError where the folder holds no tokenizer."""
    if not any(_has(folder, *files) for files in _LAYOUTS):
        wanted = " or ".join(" + ".join(files) for files in _LAYOUTS)
        raise RequestError(f"no tokenizer in {folder}: it needs {wanted}")
    slow_only = not any(_has(folder, *files) for files in _LAYOUTS[:2])
    if slow_only and find_spec("sentencepiece") is None:
        advice = "pip install sentencepiece protobuf"
        raise RequestError(
            f"{folder} has only tokenizer.model, which needs sentencepiece: {advice}"
        )


_LAYOUTS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))


def _has(folder: Path, *files: str) -> bool:
    return all((folder / file).is_file() for file in files)


def _load(folder: Path) -> Any:
    import transformers

    if _has(folder, "tokenizer.json"):
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if _has(folder, "vocab.json", "merges.txt"):
        return transformers.Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    gemma = "gemma" in _config_text(folder, "config.json", "tokenizer_config.json")
    stock = transformers.GemmaTokenizer if gemma else transformers.LlamaTokenizer
    tokenizer = stock.from_pretrained(folder, local_files_only=True, add_bos_token=True)
    settings = _config_text(folder, "tokenizer_config.json")
    if not gemma and not re.search(r'"legacy": *false', settings):
        _prefix_every_text(tokenizer.backend_tokenizer)
    return tokenizer


def _prefix_every_text(backend: Tokenizer) -> None:
    """Put a space before each run of text, as sentencepiece does; transformers 5 no longer does."""
    space = "\u2581"
    backend.pre_tokenizer = None
    steps = [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    backend.normalizer = normalizers.Sequence(steps)


def _config_text(folder: Path, *names: str) -> str:
    files = [folder / name for name in names if (folder / name).is_file()]
    return "".join(file.read_text("utf-8") for file in files).lower()

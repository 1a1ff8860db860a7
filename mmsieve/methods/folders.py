"""Model folders: those that have a name of their own, and what their files hold.

Bundled models, released ones known to work, and baselines by name; JSON, safetensors and the
Hugging Face cache; fingerprints. These are cheap on gigabytes of weights, and sure to notice
another checkpoint: small files are hashed whole; of weights the size, the safetensors header
(names, types, shapes, offsets) and blocks spread evenly over the data, which any training step
changes.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from mmsieve.errors import RequestError, nearest
from mmsieve.leftovers import scratch_folder
from mmsieve.stores.asking import one_line
from mmsieve.stores.folders import cache_folder, fetch_files, files_of
from mmsieve.stores.paths import StorePath
from mmsieve.validated import OBJECT, check_json, read_json_file

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_BUNDLED = Path(__file__).parent.parent / "bundled"


@dataclass(frozen=True)
class Known:
    """A checkpoint that a user can name."""

    name: str
    verb: str
    """What it is for."""
    size: str
    """Weights, and what they take on disk."""
    licence: str
    trained_on: str
    """Where its training texts come from: some licences forbid to learn from a model's answers."""

    @property
    def folder(self) -> Path | None:
        """Where it lies in the package; None for one that has to be fetched."""
        folder = _BUNDLED / self.name
        return folder if folder.is_dir() else None


_LARGE = "8.0 B weights, about 16 GB"
_RENDERED = "rendered scenes only: for trying things, not for photographs"
_CLAUDE = "texts that Claude 3 or 3.5 wrote: mind its terms"
_GPT = "by GPT-4o: mind its terms"

CATALOG = (
    Known("unifilter-tiny", "score", "1.9 M weights, 3.8 MB", "Apache-2.0", _RENDERED),
    Known("aitqe-tiny", "enhance", "2.1 M weights, 4.2 MB", "Apache-2.0", _RENDERED),
    Known("mmssr-tiny-scorer", "rate", "2.0 M weights, 4.0 MB", "Apache-2.0", _RENDERED),
    Known("mmssr-tiny-styler", "rate", "2.0 M weights, 4.0 MB", "Apache-2.0", _RENDERED),
    Known(
        "weizhiwang/UniFilter-Qwen2.5-1.5B", "score", "2.0 B weights, about 4 GB", "MIT", _CLAUDE
    ),
    Known("weizhiwang/UniFilter-Qwen3-0.6B", "score", "1.0 B weights, about 2 GB", "MIT", _CLAUDE),
    Known("HymanH/AITQE", "enhance", _LARGE, "Apache-2.0", f"judgements and rewrites {_GPT}"),
    Known("mengyaolyu/mmssr-7b-scorer", "rate", _LARGE, "see its card", f"ratings {_GPT}"),
    Known("mengyaolyu/mmssr-7b-styler", "rate", _LARGE, "see its card", f"styles named {_GPT}"),
)
"""Licences and sources as on the checkpoints' cards and in their repositories: Victorwz/UniFilter,
hanhuang22/AITQE, lyumengyao/mmssr."""

BASELINES = {
    "clip:MODEL": "similarity of image and text by a CLIP or SigLIP, a folder or Hugging Face id",
    "rules": "DataComp's basic filter: words, characters, image size, aspect ratio, English",
    "mlm-filter:endpoint:URL#NAME": "MLM-Filter's four metrics of captions, by a model on a server",
    "text-only:MODEL": "a classifier of the above shown a blank image",
    "image-only:MODEL": "a classifier of the above shown no text",
}
"""Other scorers by name (`mmsieve.methods.load`), and what each gives."""


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled model; None where there is none of this name."""
    return next((known.folder for known in CATALOG if known.name == name), None)


def bundled_names(verb: str | None = None) -> list[str]:
    """The names of the bundled models: those for a verb, or all."""
    return [known.name for known in CATALOG if known.folder and verb in (None, known.verb)]


def known_id(name: str) -> str | None:
    """The Hugging Face id of a released model that is named without its owner, whatever its case;
    None where none is known by that name."""
    ends = (known.name for known in CATALOG if "/" in known.name)
    return next((id_ for id_ in ends if id_.rpartition("/")[2].lower() == name.lower()), None)


def near_name(name: str) -> str:
    """` (did you mean X, of VERB?)`, among all models that are known; empty where none is near."""
    known = {one.name.rpartition("/")[2]: one for one in CATALOG} | {
        one.name: one for one in CATALOG
    }
    meant = None if name in known else nearest(name, known)
    return f" (did you mean {known[meant].name}, of `{known[meant].verb}`?)" if meant else ""


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "tokenizer.model"]
"""What is fetched of a hub repository: never a pickle, never code."""


def hub_folder(name: str) -> Path | None:
    """A hub repository from the cache, or `HUB_FILES` of it downloaded; None where neither is."""
    if not HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    for cached in (True, False):
        try:
            folder = snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=cached)
        except (OSError, ValueError):  # what every error of the hub is
            continue
        if any(Path(folder).glob("*.safetensors")):
            return Path(folder)
    return None


def fetched(place: StorePath) -> Path:
    """A model's folder at a store, as a copy on this machine that is kept; raises RequestError.

    What is read of models is fetched, once for each content that the store shows.
    """
    try:
        sizes = {path: size for path, size in files_of(place).items() if _is_of_model(path.name)}
        seen = json.dumps([(str(path), size, path.tag()) for path, size in sizes.items()])
        folder = cache_folder("models", seen) / place.name
        if not folder.is_dir():
            with scratch_folder() as scratch:
                fetch_files(place, sizes, scratch / place.name)
                folder.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(scratch / place.name, folder)
    except OSError as error:
        raise RequestError(f"model {place}: can't be fetched: {one_line(error)}") from error
    return folder


def _is_of_model(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in HUB_FILES)


FIX = "take the file of the model as it was published"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; raises RequestError."""
    try:
        return read_json_file(file, OBJECT, FIX)
    except FileNotFoundError:
        fix = "give the folder of a checkpoint"
        raise RequestError(f"{file.parent}: no {file.name} in it: {fix}") from None


class TensorIndex(TypedDict):
    """model.safetensors.index.json: which file has which tensor."""

    weight_map: dict[str, str]


_INDEXED = TypeAdapter(TensorIndex)


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> safetensors file; raises RequestError for pickles, which are never loaded."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = check_json(index, read_json(index), _INDEXED, FIX)["weight_map"]
        files = {name: folder / Path(file).name for name, file in names.items()}
    else:
        found = sorted(folder.glob("*.safetensors"))
        files = {name: file for file in found for name in _names(file)}
    if missing := sorted({file.name for file in files.values() if not file.is_file()}):
        raise RequestError(f"{folder}: {missing[0]} is missing (named by {index.name})")
    if index.is_file():
        held = {file: _names(file) for file in set(files.values())}
        if lost := [name for name, file in files.items() if name not in held[file]]:
            raise RequestError(f"{index}: names {lost[0]}, which {files[lost[0]].name} hasn't")
    if files:
        return files
    if pickles := sorted(file.name for file in folder.glob("*.bin")):
        advice = "which mmsieve never loads: save the model as safetensors"
        raise RequestError(f"{folder}: only pickled weights ({pickles[0]}), {advice}")
    raise RequestError(f"{folder}: no *.safetensors in it")


def _names(file: Path) -> set[str]:
    with _opened(file) as tensors:
        return set(tensors.keys())


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file; raises RequestError where it isn't one, or ends too early."""
    try:
        with safe_open(file, "np") as tensors:
            yield tensors
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        fix = "fetch the file again"
        raise RequestError(
            f"{file}: no whole safetensors file ({one_line(error)}): {fix}"
        ) from error


def tensor_shape(file: Path, name: str) -> tuple[int, ...]:
    """The shape of a tensor, from the file's header."""
    with _opened(file) as tensors:
        return tuple(tensors.get_slice(name).get_shape())


_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
"""Number formats of safetensors that checkpoints have -> torch's."""
_BITS = re.compile(r"\d+$")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, read each time that it is asked for: `stored[...]`.

    `from_pretrained` takes it for a tensor and keeps one copy of it. Reading, unlike mapping the
    file, leaves no page of it in the process: a model's weights are in memory once.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """By safetensors' name."""
    start: int
    """Its first byte in the file."""
    wanted: str | None = None
    """Number format to read it in, by torch's name; by default its own."""

    @property
    def numbers(self) -> int:
        """How many it holds."""
        return prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Of one number."""
        bits = _BITS.search(self.dtype)
        return max(1, int(bits[0]) // 8) if bits else 1

    def first(self, rows: int) -> "StoredTensor":
        """Its first so many rows, or all where it has no more."""
        return replace(self, shape=(min(rows, self.shape[0]), *self.shape[1:]))

    def to(self, dtype: str) -> "StoredTensor":
        """The same, converted while it is read: it is never there in both formats."""
        return replace(self, wanted=dtype)

    def __getitem__(self, index: Any) -> "Tensor":
        return self.read()[index]

    def read(self) -> "Tensor":
        """All of it; raises RequestError."""
        import torch

        if self.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise RequestError(f"{self.file}: holds {self.dtype}, and not one of {known}")
        own = getattr(torch, _DTYPES[self.dtype])
        found = torch.empty(self.numbers, dtype=getattr(torch, self.wanted or _DTYPES[self.dtype]))
        with self.file.open("rb", buffering=0) as opened:
            opened.seek(self.start)
            for first in range(0, self.numbers, _PIECE):
                piece = found[first : first + _PIECE]
                content = bytearray(len(piece) * self.item_bytes)
                if opened.readinto(content) != len(content):
                    raise RequestError(f"{self.file}: has become shorter: fetch the file again")
                piece.copy_(torch.frombuffer(content, dtype=own))
        return found.view(self.shape)


_PIECE = 1 << 22
"""Numbers that are read at a time."""


def stored_tensors(places: Mapping[str, tuple[Path, str]]) -> dict[str, StoredTensor]:
    """Tensors by a name of one's own, none of them read; raises RequestError.

    `places` says in which file each is, and by which name there.
    """
    headers = {file: _header(file) for file in {file for file, _ in places.values()}}
    return {ours: headers[file][theirs] for ours, (file, theirs) in places.items()}


def _header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file: the library checks its header, and doesn't give it out."""
    _names(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file, tuple(one["shape"]), one["dtype"], 8 + length + one["data_offsets"][0]
        )
        for name, one in header.items()
    }


def read_tensors(places: Mapping[str, tuple[Path, str]]) -> dict[str, "Tensor"]:
    """The same, read."""
    return {name: stored.read() for name, stored in stored_tensors(places).items()}


def save_tensors(state: dict[str, "Tensor"], folder: Path) -> None:
    """Write tensors as safetensors into a folder, which is made, for all to read who may.

    Large ones become several files and an index.
    """
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(state, folder)
    plain = folder / ".plain"
    plain.touch()
    mode = plain.stat().st_mode  # as any new file gets it: safetensors files are their owner's only
    plain.unlink()
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)


_BLOCKS = 64
_BLOCK = 4096


def hash_files(files: Iterable[Path]) -> str:
    """One short hash over files, by name and content; a missing file is one that is empty."""
    digest = hashlib.sha256()
    for file in sorted(filter(Path.is_file, files), key=lambda path: path.name):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as opened:
            if file.suffix != ".safetensors":
                digest.update(opened.read())
                continue
            header = min(int.from_bytes(opened.read(8), "little"), size)
            digest.update(opened.read(header))
            start = 8 + header
            step = max(_BLOCK, (size - start) // _BLOCKS)
            for offset in [*range(start, size, step), max(start, size - _BLOCK)]:
                opened.seek(offset)
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]

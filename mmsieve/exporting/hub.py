"""Exports to the Hugging Face hub: a data set repository with a card, uploaded when it is whole.

An upload is a commit, so an export is made on this machine first, and a killed one goes on from
there. The card says what the samples came from, under which licences, how many, by which command.
"""

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import yaml

from mmsieve.errors import RequestError
from mmsieve.exporting.plan import ExportPlan
from mmsieve.outputs import write_text
from mmsieve.sanitize import plain, redact
from mmsieve.sources import MANIFEST, address_of
from mmsieve.stores.asking import one_line
from mmsieve.stores.folders import cache_folder
from mmsieve.stores.paths import StorePath, as_path
from mmsieve.tables import product_version
from mmsieve.validated import OBJECT, parse_json
from mmsieve.wording import counted

CARD = "README.md"
_MARK = "<!-- made by mmsieve export -->"
UNKNOWN = "unknown"
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"))
_LARGER = ((1e7, "1M<n<10M"), (1e8, "10M<n<100M"), (1e9, "100M<n<1B"))
_HIDDEN = [".*", "**/.*"]


@dataclass(frozen=True)
class Licences:
    """Under which licences sources are, as a user says it."""

    given: tuple[str, ...]
    """NAME for all of them, or SOURCE=NAME for those whose address begins so."""

    def of(self, address: str) -> str:
        """The licence of a file; of one on the hub, where nothing is said, that of its card."""
        pairs = [one.rpartition("=") for one in self.given]
        own = [name for start, is_pair, name in pairs if is_pair and _begins(address, start)]
        own += [name for _, is_pair, name in pairs if not is_pair]
        return own[0] if own else _of_hub(address) or UNKNOWN


def _begins(address: str, start: str) -> bool:
    return address.startswith(start) or f"/{start.strip('./')}/" in f"{address}/"


@cache
def _of_repository(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        card = HfApi().dataset_info(name).card_data
    except Exception:  # noqa: BLE001 - it isn't known then, which the card says
        return None
    licence = None if card is None else card.get("license")
    return licence if isinstance(licence, str) else None


def _of_hub(address: str) -> str | None:
    """The licence on the card of a hub's data set that a file is of; None where it isn't known."""
    found = re.match(r"hf://datasets/([^/]+/[^/@]+)", address)
    return None if found is None else _of_repository(found[1])


@dataclass(frozen=True)
class HubDataset:
    """A data set repository, and a folder in it."""

    out: StorePath

    @property
    def name(self) -> str:
        """OWNER/NAME."""
        return "/".join(self.out.parts[1:3])

    @property
    def folder(self) -> str:
        """The folder in the repository; empty for all of it."""
        return "/".join(self.out.parts[3:])

    def check(self, overwrite: bool) -> str | None:
        """Its newest commit, None where it is to be made; raises RequestError.

        Looks at who asks, and at the card that is there: somebody else's isn't replaced.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        if len(self.out.parts) < 3 or self.out.parts[0] != "datasets" or "@" in self.name:
            raise RequestError(f"--out {self.out}: write hf://datasets/OWNER/NAME")
        api = HfApi()
        try:
            api.whoami()
            found = api.repo_info(self.name, repo_type="dataset").sha
            card = self._read(CARD, found)
        except RepositoryNotFoundError:
            return None
        except Exception as error:
            fix = "log in with `hf auth login`, or set HF_TOKEN"
            raise RequestError(f"--out {self.out}: {one_line(error)}; {fix}") from error
        if card is not None and not overwrite and _MARK.encode() not in card:
            raise RequestError(
                f"--out {self.out}: has a card of its own: name another repository or a folder in "
                "it, or say --overwrite"
            )
        return found

    def upload(self, folder: Path, before: str | None) -> bool:
        """Upload what is in a folder in the place of an earlier export; raises RequestError.

        Returns whether the repository is private, as it is made here.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        try:
            if before is None:
                api.create_repo(self.name, repo_type="dataset", private=True, exist_ok=True)
            api.upload_folder(
                repo_id=self.name,
                repo_type="dataset",
                folder_path=folder,
                path_in_repo=self.folder or None,
                commit_message=f"Export of mmsieve {product_version()}",
                parent_commit=before,
                ignore_patterns=_HIDDEN,
                delete_patterns=self._files_before(before) or None,
            )
            return bool(api.repo_info(self.name, repo_type="dataset").private)
        except Exception as error:
            fix = "the same command goes on where this one stopped"
            raise RequestError(f"--out {self.out}: {one_line(error)}; {fix}") from error

    def _files_before(self, before: str | None) -> list[str]:
        """The files of an earlier export there, by its manifest."""
        data = None if before is None else self._read(MANIFEST, before)
        if data is None:
            return []
        place = as_path(self.out / MANIFEST)
        manifest = parse_json(place, data, OBJECT, "remove it, it isn't of export")
        return [str(tar.get("name")) for tar in manifest.get("tars", [])]

    def _read(self, name: str, commit: str | None) -> bytes | None:
        """A file of the repository; None where it has none of that name."""
        from huggingface_hub import HfApi

        api, path = HfApi(), str(PurePosixPath(self.folder) / name)
        if not api.file_exists(self.name, path, repo_type="dataset", revision=commit):
            return None
        copy = api.hf_hub_download(self.name, path, repo_type="dataset", revision=commit)
        return Path(copy).read_bytes()

    @property
    def work(self) -> Path:
        """The folder on this machine where the export is made."""
        return cache_folder("work", str(self.out)) / PurePosixPath(self.name).name

    def clear(self) -> None:
        """Remove that folder."""
        shutil.rmtree(self.work.parent, ignore_errors=True)


@dataclass(frozen=True)
class Card:
    """What a card says of an export."""

    title: str
    command: str
    fingerprint: str
    """A digest of what all of it depends on."""
    settings: Mapping[str, str]
    """How samples were chosen."""
    samples: int
    files: int
    bytes: int
    sources: Mapping[str, int]
    """Folder of source files -> samples."""
    licences: Mapping[str, str]
    """Folder of source files -> licence."""

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_text(folder / CARD, self.text())

    def text(self) -> str:
        """The card, as Markdown with the hub's header."""
        names = sorted(set(self.licences.values()))
        licence = names[0] if len(names) == 1 and names[0] != UNKNOWN else "other"
        head = {"license": licence, "tags": ["mmsieve"], "size_categories": [_size(self.samples)]}
        rows = [
            f"| {_cell(source)} | {_cell(self.licences[source])} | {count:,} |"
            for source, count in self.sources.items()
        ]
        chosen = [f"| {_cell(name)} | {_cell(value)} |" for name, value in self.settings.items()]
        return "\n".join(
            [
                f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{_MARK}",
                f"# {plain(self.title)}\n",
                f"{counted(self.samples, 'samples')} in {counted(self.files, 'files')}, "
                f"{self.bytes:,} bytes, chosen by mmsieve {product_version()}; `manifest.json` "
                "has each file's digest.\n",
                "## Sources\n\n| source | licence | samples |\n|---|---|---|",
                *rows,
                "\n## How they were chosen\n\n| what | value |\n|---|---|",
                *chosen,
                f"| fingerprint | {self.fingerprint} |\n",
                f"```\n{plain(redact(self.command))}\n```\n",
            ]
        )


def _cell(text: str) -> str:
    """A text of somebody else's in a table of Markdown, where it marks nothing up."""
    shown = plain(redact(text)).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return shown.replace("<", "&lt;").replace("[", "\\[")


def _size(samples: int) -> str:
    """The hub's word for a number of samples."""
    return next((word for most, word in (*_SIZES, *_LARGER) if samples < most), "n>1B")


def sources_of(plan: ExportPlan, licences: Licences) -> tuple[dict[str, int], dict[str, str]]:
    """Folder of source files -> samples, and -> licence; of a local one its name alone."""
    samples: Counter[str] = Counter()
    found: dict[str, str] = {}
    for part in plan.parts:
        address = address_of(part.shard.url)
        folder = address.rpartition("/")[0]
        shown = folder if "://" in folder else PurePosixPath(folder).name
        samples[shown] += part.count
        found[shown] = licences.of(address)
    return dict(sorted(samples.items())), found


def command_of(sources: Sequence[str], words: Mapping[str, object]) -> str:
    """The command line of an export, to be read by people."""
    given = (f"--{name.replace('_', '-')} {value}" for name, value in words.items())
    return " ".join(["mmsieve export", *sources, *given])

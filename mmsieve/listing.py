"""fsspec behind one face: the files at a path, glob, folder or URL, and errors that say the fix."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from mmsieve.errors import RequestError

_MAGIC = re.compile(r"[*?\[]")
_INSTALL = {
    "s3": "mmsieve[s3]",
    "s3a": "mmsieve[s3]",
    "gs": "mmsieve[gcs]",
    "gcs": "mmsieve[gcs]",
    "hf": "mmsieve[hf]",
    "http": "fsspec[http]",
    "https": "fsspec[http]",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """What one path, glob, folder or URL names."""

    files: dict[str, int]
    """URL -> size in bytes; a local file's URL is its absolute path."""
    searched: bool = False
    """A folder or glob: its files were found, not named one by one."""
    linked_folders: int = 0
    """Symbolic links to folders, which are not followed: they may lead in circles."""


def list_files(pattern: str) -> Listing:
    """The files at a path, glob, folder or URL, none if nothing is there; hidden ones left out."""
    filesystem, path = open_filesystem(pattern)
    try:
        infos, base = _find(filesystem, path)
    except Exception as error:  # every fsspec backend has errors of its own
        raise RequestError(f"{pattern}: can't be listed: {one_line(error)}") from error
    files: dict[str, int] = {}
    linked = 0
    for info in infos:
        if base is not None and _is_hidden(info["name"], base):
            continue
        kind, size = _resolve(filesystem, info)
        linked += kind == "directory"
        if kind == "file":
            files[_url(filesystem, info["name"])] = size
        elif base is None:
            raise RequestError(f"{pattern}: not a regular file")
    return Listing(files, base is not None, linked)


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL and the path there; RequestError names what must be installed."""
    protocol = url.partition("://")[0]
    try:
        found: tuple[fsspec.AbstractFileSystem, str] = url_to_fs(url)
    except ImportError as error:
        fix = f"pip install '{_INSTALL[protocol]}'" if protocol in _INSTALL else one_line(error)
        raise RequestError(f"{url}: {protocol}:// needs a package not installed: {fix}") from error
    except ValueError as error:
        raise RequestError(
            f"{url}: {one_line(error)}; a SOURCE is a path or a URL such as s3://, gs://, hf://, "
            "https://"
        ) from error
    return found


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether the filesystem's paths are paths of this machine."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def path_of(url: str) -> str:
    """The path in a URL, without protocol and without what a signed https address appends."""
    protocol, separator, rest = url.partition("://")
    if not separator:
        return url
    return re.split("[?#]", rest)[0] if protocol in ("http", "https") else rest


def suffix_of(url: str) -> str:
    """The suffix of a file's name in lower case, with its dot."""
    return PurePosixPath(path_of(url)).suffix.lower()


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _find(
    filesystem: fsspec.AbstractFileSystem, path: str
) -> tuple[Sequence[dict[str, Any]], str | None]:
    """What is at a path or glob, and the folder that was searched for it, if one was."""
    try:
        info = filesystem.info(path)  # first, as file names and https addresses may hold ? and [
    except (FileNotFoundError, NotADirectoryError):
        magic = _MAGIC.search(path)
        if magic is None:
            return [], None
        infos = list(filesystem.glob(path, detail=True).values())
        folders = [info["name"] for info in infos if info["type"] == "directory"]
        if len(folders) == len(infos):  # a glob of folders names what is in them
            return [i for folder in folders for i in _search(filesystem, folder)], _above(path)
        return [info for info in infos if info["type"] != "directory"], _above(path)
    if info["type"] != "directory":
        return [info], None
    return _search(filesystem, path), path


def _search(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[dict[str, Any]]:
    """All files below a folder.

    A local folder that can't be listed is an error; `find` would leave a gap in the data.
    """
    if not is_local(filesystem):
        return list(filesystem.find(folder, detail=True).values())
    files: list[dict[str, Any]] = []
    folders = [folder]
    while folders:
        inside = filesystem.ls(folders.pop(), detail=True)
        shown = [info for info in inside if not info["name"].rpartition("/")[2].startswith(".")]
        folders += [info["name"] for info in shown if info["type"] == "directory"]
        files += [info for info in shown if info["type"] != "directory"]
    return files


def _above(path: str) -> str:
    """The folder in which a glob begins to search."""
    return _MAGIC.split(path)[0].rpartition("/")[0]


def _is_hidden(name: str, base: str) -> bool:
    relative = name.removeprefix(base)
    return any(part.startswith(".") for part in relative.split("/"))


def _resolve(filesystem: fsspec.AbstractFileSystem, info: dict[str, Any]) -> tuple[str, int]:
    """Kind and size of an entry; a link (the hub's cache is made of them) is what it leads to.

    A link that leads nowhere counts as a file, so that the run names what is missing.
    """
    if info["type"] == "other" and info.get("islink"):
        try:
            info = filesystem.info(info["name"])
        except OSError:
            return "file", 0
    return info["type"], int(info.get("size") or 0)


def _url(filesystem: fsspec.AbstractFileSystem, name: str) -> str:
    if not is_local(filesystem):
        url: str = filesystem.unstrip_protocol(name)
        return url
    if ".." in name.split("/"):  # a path has one spelling, or a file may be listed twice
        return str(Path(name).parent.resolve() / Path(name).name)
    return os.path.normpath(name)

"""doctor: what is installed here, what is missing, and what it means for the other verbs."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated

from cyclopts import Parameter
from packaging.requirements import Requirement

from mmsieve.devices import available_memory, count_cores, gigabytes
from mmsieve.reports import Printed
from mmsieve.sanitize import plain, redact
from mmsieve.stores.asking import one_line

_PACKAGE = "mmsieve"
_SHOWN = ("torch", "transformers", "polars", "pyarrow", "duckdb", "pillow", "huggingface_hub")
"""Packages whose versions are asked for when something goes wrong."""
_ASIDE = ("dev",)
"""Extras that users don't install."""
_SECONDS = 5.0
"""How long the hub may take to answer."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport(Printed):
    """What is installed, on what."""

    versions: dict[str, str]
    """mmsieve, Python, and the packages that matter most, with their versions."""
    machine: str
    """System, cores and free memory."""
    devices: tuple[str, ...]
    """What a model can compute on, the CPU last."""
    problems: tuple[str, ...] = ()
    """What mmsieve can't do without, and isn't there as it should be."""
    extras: dict[str, tuple[str, ...]]
    """Extra -> what of it is missing: nothing where it can be used."""
    hub: str
    """Whether released models can be fetched, and where they are kept."""
    scratch: str
    """The folder of temporary files, and its room."""

    @property
    def is_failure(self) -> bool:
        """Whether something is missing that every verb needs."""
        return bool(self.problems)

    def summary(self) -> str:
        """All of it, a line each."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [versions, self.machine, *(f"device: {device}" for device in self.devices)]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [_extra_line(name, missing) for name, missing in sorted(self.extras.items())]
        lines += [f"Hugging Face hub: {self.hub}", f"temporary files: {self.scratch}"]
        return "\n".join(map(plain, lines))


def doctor(
    *, offline: Annotated[bool, Parameter(negative="", help="Don't try to reach the hub.")] = False
) -> DoctorReport:
    """Say what is installed: versions, devices, extras, and whether models can be fetched.

    Exit code 1 where a package is missing that every verb needs. What an extra lacks is no
    failure: the line says how to install it.
    """
    required, extras = _requirements()
    return DoctorReport(
        versions=dict(_versions()),
        machine=_machine(),
        devices=tuple(_devices()),
        problems=tuple(filter(None, map(_lack, required))),
        extras={name: tuple(filter(None, map(_lack, needs))) for name, needs in extras.items()},
        hub=_hub(offline),
        scratch=_scratch(),
    )


def _extra_line(name: str, missing: tuple[str, ...]) -> str:
    if not missing:
        return f"[{name}]: there"
    return f"[{name}]: {', '.join(missing)}; pip install '{_PACKAGE}[{name}]'"


def _versions() -> Iterator[tuple[str, str]]:
    yield _PACKAGE, metadata.version(_PACKAGE)
    yield "Python", platform.python_version()
    for name in _SHOWN:
        yield name, _version(name) or "missing"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the package needs always, and for each extra, as its own metadata says it.

    An extra that takes in another one (`mmsieve[evaluate]`) has the other's needs too.
    """
    needs = [Requirement(text) for text in metadata.requires(_PACKAGE) or ()]
    names = metadata.metadata(_PACKAGE).get_all("Provides-Extra") or ()
    always = [one for one in needs if _holds(one, "")]
    own = {n: [one for one in needs if _holds(one, n) and one not in always] for n in names}
    return always, {n: _with_those_of(own, n) for n in names if n not in _ASIDE}


def _holds(need: Requirement, extra: str) -> bool:
    return need.marker is None or need.marker.evaluate({"extra": extra})


def _with_those_of(own: dict[str, list[Requirement]], name: str) -> list[Requirement]:
    found: list[Requirement] = []
    for need in own[name]:
        if need.name == _PACKAGE:
            found += [one for extra in need.extras for one in _with_those_of(own, extra)]
        else:
            found.append(need)
    return found


def _lack(need: Requirement) -> str | None:
    """What is wrong with a package that is needed; None where nothing is."""
    version = _version(need.name)
    if version is None:
        return f"{need.name} is missing"
    if not need.specifier.contains(version, prereleases=True):
        return f"{need.name} is {version}, needed is {need.specifier}"
    return None


def _machine() -> str:
    free = available_memory()
    memory = "" if free is None else f", {gigabytes(free)} of memory free"
    return f"{platform.system()} {platform.machine()}, {count_cores()} CPU cores{memory}"


def _devices() -> Iterator[str]:
    """What torch itself finds, asked of torch: whether it can be imported is part of the answer."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation may fail in any way
        yield f"none: torch can't be imported: {one_line(error)}"
        return
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}, {found.name}, {gigabytes(found.total_memory)}"
    if torch.version.cuda is None:
        yield "cpu (this torch is built for CPUs alone)"
    elif not torch.cuda.is_available():
        yield "cpu (this torch is built for GPUs, and finds none: see nvidia-smi)"
    else:
        yield "cpu"


def _hub(offline: bool) -> str:
    """Whether the hub answers; one that is a mirror, or switched off, by its own variables."""
    from huggingface_hub import HfApi, constants

    kept = f"models are kept in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return f"not asked (HF_HUB_OFFLINE is set); {kept}"
    if offline:
        return f"not asked (--offline); {kept}"
    where = redact(constants.ENDPOINT)
    try:
        HfApi().model_info("weizhiwang/UniFilter-Qwen3-0.6B", timeout=_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever the network, a proxy or the hub does
        fix = "bundled models and folders work all the same"
        return f"{where} can't be reached ({one_line(error)}): {fix}; {kept}"
    return f"{where} answers; {kept}"


def _scratch() -> str:
    folder = tempfile.gettempdir()
    free = gigabytes(shutil.disk_usage(folder).free)
    return f"{folder}, {free} free{'' if 'TMPDIR' in os.environ else ' (TMPDIR names another)'}"

"""DataComp's subset file: a sorted array of the kept samples' uids, each as two 64-bit integers."""

from pathlib import Path

import numpy as np
import polars as pl

from mmsieve.cut.spool import BLOCK, Records, Spool, records
from mmsieve.errors import RequestError

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
_PARTS = 256


class UidFile:
    """Collects uids in any order, and writes them sorted, with a part of them in memory."""

    def __init__(self, folder: Path) -> None:
        self._parts = [Spool(folder, UID) for _ in range(_PARTS)]
        self._waiting: list[Records] = []

    def add(self, uids: pl.Series, keys: pl.Series) -> None:
        """Add the uids of kept samples; raises RequestError for one that DataComp can't read."""
        text = uids.cast(pl.String)
        wrong = ~text.str.contains("^[0-9a-fA-F]{32}$").fill_null(False)
        if wrong.any():
            first = int(wrong.arg_true()[0])
            raise RequestError(
                f"--format datacomp: {keys[first]!r} is kept and its uid is {uids[first]!r}, "
                "not 32 hexadecimal digits: leave such samples out with --where, or use "
                "--format parquet"
            )
        f0, f1 = (
            text.str.slice(at, 16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
            for at in (0, 16)
        )
        self._waiting.append(records(UID, f0=f0, f1=f1))
        if sum(map(len, self._waiting)) >= BLOCK:
            self._flush()

    def write(self, path: Path) -> None:
        """Write the file as `numpy.save` would."""
        self._flush()
        count = sum(part.rows for part in self._parts)
        header = {"descr": UID.descr, "fortran_order": False, "shape": (count,)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in self._parts:
                uids = part.read(0, part.rows)
                uids[np.lexsort((uids["f1"], uids["f0"]))].tofile(file)

    def _flush(self) -> None:
        if self._waiting:
            uids = np.concatenate(self._waiting)
            part = uids["f0"] >> np.uint64(56)
            for number in np.unique(part):
                self._parts[int(number)].append(uids[part == number])
        self._waiting = []

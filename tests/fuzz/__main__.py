"""The command: mutations of each kind, and what ended otherwise than it should."""

import argparse
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from tempfile import mkdtemp

from tests.fuzz.forked import Outcome, Worker, run, run_function
from tests.fuzz.kinds import KINDS, environment
from tests.fuzz.mutations import mutate

Execute = Callable[[Sequence[str], Path, Path], Outcome]
_AT_ONCE = 10
"""Mutations of a kind before it is the next one's turn."""
_SHARED = 1 << 18
"""Files from this size on, weights, are linked and not copied: nobody writes to them."""


def main() -> int:
    """Run what is asked for; 1 where anything ended otherwise."""
    asked = _arguments()
    environment()
    place = Path(asked.folder or mkdtemp(prefix="mmsieve-fuzz-"))
    kinds = asked.kinds or list(KINDS)
    begin = time.monotonic()
    for kind in kinds:
        _make(kind, place)
    if asked.repeat is not None:
        outcome = _try(kinds[0], asked.repeat, place, place / "repeat", run, shown=True)
        print(outcome.said, outcome.problem or "as it should", outcome)
        return int(outcome.problem is not None)
    children = [_start(part, asked, kinds, place) for part in range(asked.processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    bad = _sum_up(kinds, place)
    print(f"{time.monotonic() - begin:.0f} s")
    if asked.folder is None:
        shutil.rmtree(place, ignore_errors=True)
    return int(bad > 0 or any(codes))


def _sum_up(kinds: Sequence[str], place: Path) -> int:
    """Print how all runs of a folder ended; returns how many ended badly."""
    ends: Counter[tuple[str, str]] = Counter()
    for kind, _, end in _ended(place):
        ends[kind, end] += 1
    for kind in kinds:
        counts = {end: count for (name, end), count in sorted(ends.items()) if name == kind}
        print(f"{kind}: {', '.join(f'{count} {end}' for end, count in counts.items())}")
    bad = sum(count for (_, end), count in ends.items() if not end.startswith("code "))
    print(f"{sum(ends.values())} mutations, {bad} bad", end=", ")
    return bad


def _ended(place: Path) -> Iterator[tuple[str, int, str]]:
    """Kind, number and end of each mutation that was run in a folder."""
    for path in sorted(place.glob("ends-*")):
        for line in path.read_text("utf-8").splitlines():
            kind, number, end = line.split("\t")
            yield kind, int(number), end


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=2000, help="mutations of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seconds", type=float, default=1e9, help="of all: then it ends")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", help="to keep: a later run goes on from it")
    parser.add_argument(
        "--repeat", type=int, help="run this mutation of the KIND again and show it"
    )
    return parser.parse_args()


def _make(kind: str, place: Path) -> None:
    """Make a kind's good files, see that its runs are well with them, and import what they do."""
    base, notes = place / kind / "base", place / kind / "notes"
    if not base.is_dir():
        half = place / kind / "half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        made = run_function(KINDS[kind].make, half, notes, most_seconds=600.0)
        if made.code:
            sys.exit(f"{kind}: {made.said}")
        half.rename(base)
    for number, line in enumerate(KINDS[kind].lines):
        work = _copy(base, place / kind / "good")
        names = place / kind / "modules"
        os.environ["MMSIEVE_FUZZ_MODULES"] = str(names)
        outcome = run_function(lambda line=line: _listing(line), work, notes, 600.0)  # type: ignore[misc]
        if outcome.problem or outcome.code == 2:  # 1: no teacher is there
            sys.exit(f"{kind}: undamaged, run {number} ends so: {outcome}")
        for name in names.read_text("utf-8").split():
            _import(name)


def _listing(line: str) -> None:
    """A run that tells what it has imported."""
    from mmsieve.cli import main as run_line

    try:
        run_line(line.split())
    finally:
        names = [
            n for n in list(sys.modules) if n.partition(".")[0] != "tests" and "__main" not in n
        ]
        Path(os.environ["MMSIEVE_FUZZ_MODULES"]).write_text("\n".join(names), "utf-8")


def _import(name: str) -> None:
    try:
        import_module(name)
    except Exception:  # noqa: BLE001 - it is imported for speed alone
        return


def _start(part: int, asked: argparse.Namespace, kinds: Sequence[str], place: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        worker = Worker()
        with (place / f"ends-{part}").open("a", encoding="utf-8", buffering=1) as ends:
            for kind, number in _numbers(part, asked, kinds, place):
                work = place / kind / f"work-{part}-{number}"
                outcome = _try(kind, number, place, work, worker.run)
                if problem := outcome.problem:
                    alone = _try(kind, number, place, work, run)
                    problem = alone.problem or f"{problem}, but not alone"
                    _tell(kind, number, problem, outcome)
                shutil.rmtree(work, ignore_errors=True)
                ends.write(f"{kind}\t{number}\t{problem or f'code {outcome.code}'}\n")
        worker.close()
        code = 0
    except BaseException:  # noqa: BLE001 - the parent only sees that this process failed
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _numbers(
    part: int, asked: argparse.Namespace, kinds: Sequence[str], place: Path
) -> Iterator[tuple[str, int]]:
    """A process's share of what wasn't run yet: some of each kind in turn, while there is time."""
    done = {(kind, number) for kind, number, _ in _ended(place)}
    end = time.monotonic() + asked.seconds
    for first in range(asked.first, asked.first + asked.count, _AT_ONCE):
        last = min(first + _AT_ONCE, asked.first + asked.count)
        for kind in kinds:
            for number in range(first, last):
                if number % asked.processes != part or (kind, number) in done:
                    continue
                if time.monotonic() > end:
                    return
                yield kind, number


def _tell(kind: str, number: int, problem: str, outcome: Outcome) -> None:
    lines = outcome.said.strip().splitlines() or [""]
    more = f"{outcome.code}, {outcome.seconds:.1f} s, {outcome.peak >> 20} MB"
    print(f"{kind} {number}: {problem} ({more}): {lines[-1][:300]}", flush=True)


def _try(
    kind: str, number: int, place: Path, work: Path, execute: Execute, shown: bool = False
) -> Outcome:
    """One mutation: its number decides the file, the damage and the run."""
    random = Random(f"{kind} {number}")
    made = KINDS[kind]
    _copy(place / kind / "base", work)
    found = [sorted(filter(Path.is_file, work.glob(pattern))) for pattern in made.damaged]
    file = random.choice(random.choice([files for files in found if files]))
    data = mutate(file.name, file.read_bytes(), random)
    file.unlink()
    file.write_bytes(data)
    line = random.choice([one for one in made.lines if _reads(one, file.relative_to(work))])
    if shown:
        print(f"{file}: {len(data)} bytes\nmmsieve {line}")
    said = work.with_name(f"{work.name}-said")
    outcome = execute(line.split(), work, said)
    said.unlink()
    return outcome


def _reads(line: str, file: Path) -> bool:
    """Whether a command line names the file's folder, of kinds that have several."""
    top = file.parts[0]
    return top not in ("one", "two", "done", "begun") or top in line.replace("/", " ").split()


def _copy(base: Path, work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)

    def copy(source: str, target: str) -> str:
        if Path(source).stat().st_size >= _SHARED:
            os.link(source, target)
        else:
            shutil.copyfile(source, target)
        return target

    shutil.copytree(base, work, copy_function=copy)
    return work


if __name__ == "__main__":
    sys.exit(main())

"""The command: `mmsieve`, or `python -m mmsieve`."""

import os
import signal
from types import FrameType

_ENDED = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


def main() -> None:
    """Run the command line, which a signal ends in a line also while it is being imported."""
    for number in _ENDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from mmsieve.cli import main as run

    run()


def _end(number: int, frame: FrameType | None) -> None:
    """End before anything was begun, or after all was done."""
    how, code = _ENDED[signal.Signals(number)]
    os.write(2, f"{how}; the same command goes on where this one stopped\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main()

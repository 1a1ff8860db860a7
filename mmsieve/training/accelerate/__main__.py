"""`python -m mmsieve.training.accelerate zero3 > zero3.yaml` prints a config by its name.

`num_processes`, and what else is special to a machine, can be changed in the file or be given to
`accelerate launch`.
"""

import sys
from pathlib import Path

_KINDS = ("ddp", "zero2", "zero3", "fsdp2")


def main(words: list[str]) -> int:
    """Print the config that is asked for; returns the exit code."""
    if len(words) != 1 or words[0] not in _KINDS:
        print(f"mmsieve: give one of {', '.join(_KINDS)}", file=sys.stderr)
        return 2
    print(Path(__file__).with_name(f"{words[0]}.yaml").read_text("utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

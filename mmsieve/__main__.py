"""`python -m mmsieve` is the same as `mmsieve`."""

from mmsieve.cli import main

if __name__ == "__main__":
    main()

"""What the product promises, recorded: a change of it shows as a diff of `recorded/`.

The guards know the command line and `import mmsieve` only, so that the inside can be rearranged
freely. A wanted change is recorded anew, looked at and committed with the code:

    MMSIEVE_RECORD=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests/guards

Scores and weights are compared nearly, since kernels of another processor round otherwise. On the
machine that recorded them, with the same packages and OMP_NUM_THREADS=1, MMSIEVE_EXACT=1 compares
them to the bit: before a rearrangement record, after it compare. What trains has the marker `slow`.
"""

"""What the product promises, recorded: a change of it shows as a diff of `recorded/`.

The guards know the command line and `import mmsieve` only, so that the inside can be rearranged
freely. A wanted change is recorded anew, looked at and committed with the code:

    MMSIEVE_RECORD=1 .venv/bin/python -m pytest tests/guards
"""

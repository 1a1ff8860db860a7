"""A 3x5 pixel alphabet, so that the same seed draws the same letters on every machine.

Fonts differ between Pillow builds (FreeType or not, and its version); fifteen bits per letter do
not. Each glyph is five rows of three, written as octal digits from top to bottom.
"""

import numpy as np

WIDTH, HEIGHT = 3, 5

_ROWS = {
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644",
    "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447",
    "M": "57755", "N": "65555", "O": "25552", "P": "65644", "Q": "25573", "R": "65655",
    "S": "34216", "T": "72222", "U": "55557", "V": "55552", "W": "55775", "X": "55255",
    "Y": "55222", "Z": "71247", "0": "75557", "1": "26227", "2": "61247", "3": "61216",
    "4": "55711", "5": "74616", "6": "34757", "7": "71122", "8": "75757", "9": "75716",
    " ": "00000",
}  # fmt: skip


def word_mask(word: str) -> np.ndarray:
    """The word as a 0/1 array, five rows high, one empty column between letters."""
    columns = np.zeros((HEIGHT, len(word) * (WIDTH + 1) - 1), dtype=np.uint8)
    for index, letter in enumerate(word.upper()):
        for row, digit in enumerate(_ROWS[letter]):
            for bit in range(WIDTH):
                on = int(digit, 8) >> (WIDTH - 1 - bit) & 1
                columns[row, index * (WIDTH + 1) + bit] = on
    return columns

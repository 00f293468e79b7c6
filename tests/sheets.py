"""Sheets of swaps, taken apart."""

import numpy as np
from PIL import Image


def cells(path, rows, columns, header=0, first=8, side=32, gap=2):
    """The sources (first column) and the other cells of a sheet written with `--scale=1`, below `header` pixels."""
    sheet = np.asarray(Image.open(path))[header:]
    assert sheet.shape == (rows * (side + gap) - gap, (columns + 1) * (side + gap) - gap + first, 3)
    places = [
        [sheet[i * 34 : i * 34 + 32, (j * 34 + 8 * (j > 0)) :][:, :32] for j in range(columns + 1)] for i in range(rows)
    ]
    grid = np.array(places)
    return grid[:, 0], grid[:, 1:]

"""Figures without a display, and what all of them share: a light grid, no box, one resolution."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from jaxsel.plotting import tidy as tidy


def plain(text: str) -> str:
    """Return the text with its dollar signs escaped: a figure typesets text between two of them as a formula."""
    return text.replace("$", r"\$")


def save(figure: Any, path: Path) -> Path:
    """Write the figure, close it and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path

"""What all figures share: drawn without a display, a light grid, no box, one resolution."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from jaxsel.plotting import tidy as tidy


def plain(text: str) -> str:
    """The text as it is in a figure, where two dollar signs would make a formula of what is between them."""
    return text.replace("$", r"\$")


def save(figure: Any, path: Path) -> Path:
    """Writes the figure and closes it; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path

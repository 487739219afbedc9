"""Figures drawn without a display. All of them have a light grid, no box and the same resolution."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from jaxsel.plotting import plain as plain
from jaxsel.plotting import tidy as tidy


def save(figure: Any, path: Path) -> Path:
    """Write the figure, close it and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path

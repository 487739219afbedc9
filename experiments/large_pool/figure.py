"""The figure: the share of mixed groups over steps, for every size of the pool."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.large_pool.runs import AMONG, BLOCK
from experiments.large_pool.summary import Found
from experiments.reporting import drawing
from experiments.reporting.figures import VARIANTS, with_band
from jaxsel import plotting


def draw(found: Found, path: Path) -> Path:
    """Draw the share of mixed groups over steps: one column per pool size, one row per set of candidates."""
    sizes, ways = (list(dict.fromkeys(key[part] for key in found)) for part in (0, 1))
    figure, axes = drawing.plt.subplots(
        len(ways),
        len(sizes),
        figsize=(3.9 * len(sizes) + 0.5, 3.1 * len(ways) + 0.8),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    handles: dict[str, Any] = {}
    for (size, way), by_method in found.items():
        ax = axes[ways.index(way), sizes.index(size)]
        for name, runs in by_method.items():
            shares = np.array([one["found"]["mixed_shares"] for one in runs])
            steps = BLOCK * (np.arange(shares.shape[1]) + 0.5)
            with_band(ax, steps, shares, plotting.style(VARIANTS.get(name, name)) | {"markersize": 4})
            handles.setdefault(name.replace("_", " "), ax.lines[-1])
        ax.set_title(f"{size:,} prompts, among {AMONG[way]}", fontsize=10)
        drawing.tidy(ax)
    for ax in axes[:, 0]:
        ax.set_ylabel("share of mixed groups")
    for ax in axes[-1]:
        ax.set_xlabel("training step")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(2 * len(sizes), 4), frameon=False)
    return drawing.save(figure, path)

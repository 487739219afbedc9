"""The colours of all figures, and the looks of the methods.

A look is a colour, a line style and a marker. The looks of two methods differ for colour-blind readers and in greyscale
prints.
"""

from typing import Any

COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "dark grey": "#333333",
    "grey": "#777777",
    "light grey": "#999999",
    "pale grey": "#DDDDDD",
    "white": "#FFFFFF",
}
"""The palette of "Color Universal Design" (Okabe and Ito 2008), and greys for grids, bands and reference lines."""

METHODS = {
    "uniform": ("black", "-", "x"),
    "history_resampling": ("sky blue", "--", "<"),
    "dynamic_sampling": ("orange", "--", ">"),
    "mopps": ("blue", "-", "o"),
    "threshold": ("green", "-.", "v"),
    "dps": ("vermilion", "-", "s"),
    "gps": ("purple", "-", "D"),
    "ridge": ("orange", ":", "P"),
    "state_space": ("black", ":", "h"),
    "adaptive": ("black", "-.", "*"),
    "arcus": ("sky blue", "-", "^"),
}
"""Looks of the methods: colour, line style and marker by method name."""

# Looks for labels that name no method. They differ from the methods' looks, and leave out yellow: it is pale on white.
CYCLE = (
    ("blue", "--", "^"),
    ("vermilion", ":", "p"),
    ("green", "-", "*"),
    ("purple", "-.", "h"),
    ("orange", "-", "d"),
    ("sky blue", ":", "8"),
    ("black", "--", "+"),
)


def style(look: str | int) -> dict[str, Any]:
    """Return colour, line style and marker as keyword arguments of `axes.plot`.

    Args:
        look: Name of a method in `METHODS`, or a number from 0. The numbers 0 to 48 have distinct looks: 7 colours,
            each with 7 pairs of line and marker. Larger numbers repeat them.

    Raises:
        ValueError: No method has this name.
    """
    if isinstance(look, str) and look not in METHODS:
        raise ValueError(f"look is {look!r}; give one of {', '.join(map(repr, METHODS))}, or a number")
    if isinstance(look, str):
        colour, line, marker = METHODS[look]
    else:
        rounds, place = divmod(look, len(CYCLE))
        colour, (_, line, marker) = CYCLE[place][0], CYCLE[(place + rounds) % len(CYCLE)]
    return {"color": COLOURS[colour], "linestyle": line, "marker": marker}

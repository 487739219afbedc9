"""All colours of the figures, and one look per method, distinct for colour-blind readers and in greyscale prints."""

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
"""The palette of "Color Universal Design" (Okabe and Ito 2008), and greys for everything that is not data."""

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
}
"""Colour, line style and marker of every method with its own look."""

# Looks for other labels. They differ from the looks of the methods, and avoid yellow, which is too pale on white.
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

    A method's name gives its look, and a number gives a look of a cycle. From 7 on, the colours recur with other lines
    and markers. The cycle has 49 distinct looks.

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

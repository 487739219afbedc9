"""One look a method, in all figures, that is told apart by colour-blind readers and in grey."""

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
}
"""The palette of "Color Universal Design" (Okabe and Ito 2008)."""

METHODS = {
    "uniform": ("black", "-", "x"),
    "history_resampling": ("sky blue", "--", "<"),
    "dynamic_sampling": ("orange", "--", ">"),
    "mopps": ("blue", "-", "o"),
    "threshold": ("green", "-.", "v"),
    "dps": ("vermilion", "-", "s"),
    "gps": ("purple", "-", "D"),
    "ridge": ("orange", ":", "P"),
}
"""Colour, line style and marker of every method that has a look of its own."""

# For what has no look of its own, and none is that of a method. Not yellow: it is pale on white.
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
    """Colour, line style and marker, as keywords of `axes.plot`: of a method by name, or one of a cycle by number.

    From 7 on colours come again with other lines and markers; 49 looks are distinct.

    Raises:
        ValueError: no method has the name.
    """
    if isinstance(look, str) and look not in METHODS:
        raise ValueError(f"look is {look!r}; give one of {', '.join(map(repr, METHODS))}, or a number")
    if isinstance(look, str):
        colour, line, marker = METHODS[look]
    else:
        rounds, place = divmod(look, len(CYCLE))
        colour, (_, line, marker) = CYCLE[place][0], CYCLE[(place + rounds) % len(CYCLE)]
    return {"color": COLOURS[colour], "linestyle": line, "marker": marker}

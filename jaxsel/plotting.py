"""Figures of calibration and beliefs, from the results of `jaxsel.metrics`. They need the extra `plot`.

Every function draws on the given `axes`, labels them with units and returns them. To compare methods, call it once per
method on the same axes, then call `axes.legend()`. A method has the same colour, line style and marker in all figures;
see `style`. The colours are the palette of Okabe and Ito, which colour-blind readers can distinguish. Line styles and
markers distinguish the methods in greyscale prints.

    figure, axes = plt.subplots()
    for method, prediction in predictions.items():
        table = metrics.reliability(prediction.mixed, mixed)
        plotting.reliability_diagram(axes, table, label=method, event="a mixed group")
    axes.legend()

A metric of no prompts is NaN, and leaves a gap in its line. All texts are drawn as they are: a dollar sign begins no
formula. For a formula, set the text of the axes afterwards. `plain` escapes the texts of your own titles.
"""

from jaxsel.evaluation.plotting.axes import plain as plain
from jaxsel.evaluation.plotting.axes import tidy as tidy
from jaxsel.evaluation.plotting.beliefs import belief_areas as belief_areas
from jaxsel.evaluation.plotting.beliefs import beta_densities as beta_densities
from jaxsel.evaluation.plotting.calibration import coverage_curve as coverage_curve
from jaxsel.evaluation.plotting.calibration import pit_histogram as pit_histogram
from jaxsel.evaluation.plotting.calibration import reliability_diagram as reliability_diagram
from jaxsel.evaluation.plotting.comparison import by_part as by_part
from jaxsel.evaluation.plotting.comparison import over_steps as over_steps
from jaxsel.evaluation.plotting.looks import COLOURS as COLOURS
from jaxsel.evaluation.plotting.looks import METHODS as METHODS
from jaxsel.evaluation.plotting.looks import style as style

"""Figures of calibration and beliefs, from what `jaxsel.metrics` gives. Needs the extra `plot`.

Every function draws on the `axes` it is given, names them with their units and returns them. Call it once a method on
the same axes to compare methods, then `axes.legend()`. A method looks the same in all figures, see `style`: colours
are those of Okabe and Ito, distinct for colour-blind readers, and line styles and markers say the same in grey.

    figure, axes = plt.subplots()
    for method, prediction in predictions.items():
        table = metrics.reliability(prediction.mixed, mixed)
        plotting.reliability_diagram(axes, table, label=method, event="a mixed group")
    axes.legend()

NaN, which is what metrics say where nothing counts, leaves a gap.
"""

from jaxsel.evaluation.plotting.charts import belief_areas as belief_areas
from jaxsel.evaluation.plotting.charts import beta_densities as beta_densities
from jaxsel.evaluation.plotting.charts import by_part as by_part
from jaxsel.evaluation.plotting.charts import coverage_curve as coverage_curve
from jaxsel.evaluation.plotting.charts import over_steps as over_steps
from jaxsel.evaluation.plotting.charts import pit_histogram as pit_histogram
from jaxsel.evaluation.plotting.charts import reliability_diagram as reliability_diagram
from jaxsel.evaluation.plotting.charts import tidy as tidy
from jaxsel.evaluation.plotting.looks import COLOURS as COLOURS
from jaxsel.evaluation.plotting.looks import METHODS as METHODS
from jaxsel.evaluation.plotting.looks import style as style

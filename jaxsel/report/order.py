"""The order of two methods in words, and how sure it is."""

import numpy as np

from jaxsel.report.certainty import FEWEST_PROMPTS, is_known, t_quantile
from jaxsel.report.judgement import Number
from jaxsel.report.tables import Tables

_SURE = (
    (5, "On these prompts, the order is beyond doubt"),
    (3, "On these prompts, the order is very likely right"),
    (2, "On these prompts, the order is probably right"),
)
CHANCE = "The order may be chance"
_SAME = 5e-4  # scores that round to the same three digits


def compared(found: Tables, other: str) -> str:
    """Return how the best method compares with another one, in a sentence or two."""
    gain, brier = (found.judged[other].numbers[name] for name in ("states behind", "brier ahead"))
    scores = "The Brier score of a mixed group is"
    apart = f"{abs(brier.value):.3f} {'better' if brier.value < 0 else 'worse'} ({error_of(brier, 1, 3)})"
    scores += " the same." if abs(brier.value) < _SAME else f" {apart}."
    if is_same(found, other):
        return f"both gave what happened the same probability on average, to three digits of the log score. {scores}"
    return (
        f"it gave what happened {np.exp(gain.value):.2f} times as high a probability, {gain.value:.3f} nats more per "
        f"group ({error_of(gain, 1, 3)}). {sure(found, other)}. {scores}"
    )


def is_same(found: Tables, other: str) -> bool:
    """Return whether a method has the score of the best one, to three digits."""
    return abs(found.judged[other].numbers["states behind"].value) < _SAME


def sure(found: Tables, other: str) -> str:
    """Return how sure it is that the best method predicts better than another one."""
    gain, prompts = found.judged[other].numbers["states behind"], found.judged[other].sampled["all"].prompts
    if prompts < FEWEST_PROMPTS or not is_known(*gain):
        return CHANCE
    return next((words for times, words in _SURE if gain.value > t_quantile(times, prompts) * gain.error), CHANCE)


def error_of(number: Number, scale: float, digits: int) -> str:
    """Return a standard error in words, so many times as large."""
    if not is_known(*number):
        return "standard error unknown"
    return f"standard error {scale * number.error:.{digits}f}"

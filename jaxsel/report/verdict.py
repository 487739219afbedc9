"""The verdict of a report in words: what was found, how sure that is, and what to do about it."""

from typing import NamedTuple

import numpy as np

from jaxsel.report.certainty import UNLIKELY, error_by_chance, interval, is_clear, t_quantile
from jaxsel.report.gaps import LARGE, MOST, clear_gaps, part_is_wrong, right_places
from jaxsel.report.judgement import Judged, Number
from jaxsel.report.order import CHANCE, compared, error_of, is_same, sure
from jaxsel.report.tables import KINDS, Tables
from jaxsel.report.wording import counted, listed, percent, shortened

_GOOD, _ROUGH = 0.03, 0.10  # calibration errors of P(mixed), beyond what chance gives
_ANSWERS = {  # for one method, and for several
    "yes": ("Yes.", "Yes for {}."),
    "roughly": ("Only roughly.", "Only roughly for {}."),
    "no": ("No.", "Not for {}."),
    "unknown": ("There are too few groups to tell.", "There are too few groups to tell for {}."),
}
_CARE = {
    "unknown": " for now: too few groups were judged to say whether its probabilities are right.",
    "yes": ".",
    "roughly": ", but do not read its probabilities to the digit.",
    "no": " only if the order of the prompts is all you need: correct its probabilities before you act on them.",
}
_ROUNDING = 1e-5  # the predictions are 32-bit numbers
_AS_SAID = 0.005  # a share that rounds to the same percentage
_LENGTH = 60  # letters of a prompt's text


class Finding(NamedTuple):
    """A paragraph of a verdict.

    Attributes:
        question: The question.
        answer: Its short answer.
        details: Sentences that give the evidence.
    """

    question: str
    answer: str
    details: list[str]


def verdict(found: Tables) -> list[Finding]:
    """Return the findings in the order in which a reader asks for them."""
    if not found.judged:
        return [_beliefs_alone(found)]
    best = found.methods[0]
    take, *more = _advice(found, best)
    return [
        _trust(found),
        _where(found),
        _which(found),
        _prompts(found, best),
        Finding("What should I do?", take, more),
        _limits(found),
    ]


def points(number: Number) -> str:
    """Return a difference of probabilities in percentage points, with its standard error."""
    return f"{100 * number.value:.1f} percentage points ({error_of(number, 100, 1)})"


def grade(verdict: Judged) -> str:
    """Return whether P(mixed) is trustworthy: "yes", "roughly", "no", or "unknown" where groups are too few to tell."""
    error, bins = verdict.numbers["calibration"], verdict.curve.bins
    beyond = error.value - verdict.by_chance
    if not np.isfinite(beyond):
        return "unknown"
    if beyond > _ROUGH:
        is_sure = beyond > t_quantile(3, verdict.sampled["all"].prompts) * error.error
        return "no" if is_sure and error_by_chance(error.value, bins.predicted, bins.groups) < UNLIKELY else "unknown"
    low, high = interval(np.array([verdict.numbers["realised"].value]), np.array([float(verdict.groups)]))
    if verdict.by_chance > _ROUGH or (high - low).item() > 2 * _ROUGH:
        return "unknown"
    return "yes" if beyond <= _GOOD else "roughly"


def _trust(found: Tables) -> Finding:
    grades = {name: grade(one) for name, one in found.judged.items()}
    if len(grades) == 1:
        answer = _ANSWERS[next(iter(grades.values()))][0]
    else:
        by_grade = {key: [name for name in found.methods if grades[name] == key] for key in _ANSWERS}
        answer = " ".join(_ANSWERS[key][1].format(listed(names)) for key, names in by_grade.items() if names)
    details = []
    for name in found.methods:
        one = found.judged[name]
        numbers = one.numbers
        details.append(
            f"{_of(name, found)}a prediction is off by {points(numbers['calibration'])} on average; even right "
            f"predictions would be off by {100 * one.by_chance:.1f}, by chance. It expected "
            f"{percent(numbers['predicted'].value)} of the groups to be mixed, and "
            f"{percent(numbers['realised'].value)} were.{_other_sizes(found, name)}"
        )
    return Finding(
        "Can I trust the predicted probability of a mixed group?",
        answer,
        details if len(found.methods) > 1 else _capitals(details),
    )


def _other_sizes(found: Tables, name: str) -> str:
    """Return how many of the judged groups had another number of rollouts than the method predicts for."""
    size, sizes = found.material.group_sizes.get(name), getattr(found.material.seen[name], found.kinds[0]).group_size
    number = 0 if size is None else int((sizes != size).sum())
    if not number:
        return ""
    return (
        f" It predicts for groups of {counted(int(size or 0), 'rollout')}, and {number:,} of {len(sizes):,} groups had "
        "another number: their probability at their own number follows from the predicted mean and variance."
    )


def _where(found: Tables) -> Finding:
    details, answers = [], []
    for name in found.methods:
        gaps = clear_gaps(found, name, MOST if name == found.methods[0] else 1)
        right = right_places(found.judged[name])
        wrong = f"too {gaps[0].side} {gaps[0].place}" if gaps else "clearly wrong nowhere"
        answers.append(f"{name} is {right}, and {wrong}.")
        details += [f"{_of(name, found)}{gap.place}, {gap.what}: too {gap.side}." for gap in gaps]
    if len(found.methods) == 1:
        details = _capitals(details)
    details.append(
        f"Right means within {100 * LARGE:.0f} percentage points of what happened, with groups enough to tell."
    )
    return Finding("Where is it right, and where is it wrong?", " ".join(answers), details)


def _which(found: Tables) -> Finding:
    question = "Which method predicts best, and how sure is that?"
    best, *others = found.methods
    if not others:
        chosen = f"Only {best} was looked at."
        return Finding(question, chosen, ["Give several methods to compare them: jaxsel.explore(history, methods)."])
    details = []
    unsure = [other for other in others if sure(found, other) == CHANCE]
    same = [other for other in others if is_same(found, other)]
    for other in others:
        details.append(f"{best} against {other}: {compared(found, other)}")
    second = others[0]
    gain = found.judged[second].numbers["states behind"].value
    times = f"{np.exp(gain):.2f} times as high a probability as {second}, which is second by this score"
    answer = f"{best}: on average it gave what happened {times}. {sure(found, second)}."
    if unsure:
        answer = f"{best} has the best score, but {listed(unsure)} may be as good."
    if same:
        answer = f"{listed([best, *same])} have the same score."
        others = [other for other in unsure if other not in same]
        answer += f" {listed(others)} may be as good." if others else ""
    groups = next(iter(found.judged.values())).groups
    details.append(f"All methods are compared on the same {counted(groups, 'group')}, pair by pair.")
    return Finding(question, answer, details)


def _prompts(found: Tables, best: str) -> Finding:
    worst, texts = found.worst[best], found.material.texts
    details = []
    for prompt, predicted, observed, groups, rollouts in list(zip(*worst, strict=True))[: MOST + 2]:
        text = "" if texts is None else f" “{shortened(str(texts[prompt]), _LENGTH)}”"
        details.append(
            f"Prompt {prompt}{text}: {best} predicted a success rate of {percent(predicted)}, and {percent(observed)} "
            f"of {counted(int(rollouts), 'rollout')} in {counted(int(groups), 'group')} were correct."
        )
    details.append("These are means over all groups of a prompt. The table below ranks single groups.")
    return Finding("Which prompts are most mispredicted?", _sides(worst.predicted - worst.observed, best), details)


def _sides(gap: np.ndarray, best: str) -> str:
    """Return how many of the worst prompts were harder than predicted, how many easier, and how many neither."""
    number, high, low = len(gap), int((gap > _AS_SAID).sum()), int((gap < -_AS_SAID).sum())
    said = [
        (high, "harder than it believed"),
        (low, "easier than it believed"),
        (number - high - low, "as it believed"),
    ]
    (first, words), *others = [(count, words) for count, words in said if count]
    if not others:
        which = f"The worst prompt of {best} was" if number == 1 else f"The {number} worst of {best} were all"
        return f"{which} {words}."
    was = "was" if first == 1 else "were"
    counts = [
        f"{first} {was} {words}",
        *(f"{n} {more.replace('easier than it believed', 'easier')}" for n, more in others),
    ]
    return f"Of the {number} worst of {best}, {listed(counts)}."


def _advice(found: Tables, best: str) -> list[str]:
    one = found.judged[best]
    same = [best, *(other for other in found.methods if other != best and is_same(found, other))]
    take = f"Take {' or '.join(same)}" if len(found.methods) > 1 else f"Keep {best}"
    trust = grade(one)
    said = [f"{take}{_CARE[trust]}"]
    share = one.curve.miscalibration / max(one.numbers["brier"].value, 1e-9)
    if trust in ("roughly", "no") and share > 0.02:
        said.append(
            f"Correct its probability of a mixed group online with jaxsel.recalibrated. At best, a correction "
            f"removes {percent(share)} of its Brier score. Recalibration learns from the batches, so check the result "
            "on probes."
        )
    if part_is_wrong(one, "unseen"):
        said.append(
            "Prompts without a visit are predicted badly: give the method embeddings of the prompts, or a prior from "
            "an earlier run (jaxsel.informative_prior)."
        )
    covered, error = one.numbers["covers 90%"]
    prompts = one.sampled["all"].prompts
    if is_clear(0.9 - covered, error, least=0.04, expected=0.9, groups=one.groups, prompts=prompts):
        wide = "narrow: fit its settings with jaxsel.fit" if covered < 0.9 else "wide: more rollouts would sharpen them"
        said.append(f"Its 90% intervals held {percent(covered)} of the outcomes. They are too {wide}.")
    if found.kinds[0] == "ahead":
        said.append(
            "Record probes (train.probe_every and probe_size=0), so that prompts outside the batches count too."
        )
    return said


def _limits(found: Tables) -> Finding:
    chosen_by = found.material.chosen_by or "a method"
    details = [
        "The standard errors say how much the numbers would change with other prompts. They do not say how much they "
        "would change in another run with another seed: compare several runs before you choose a method for good.",
        "Good predictions are not yet better batches: which prompts to choose is another question.",
    ]
    answer = f"The methods were judged on {KINDS[found.kinds[0]]}."
    if found.kinds[0] == "ahead":
        details.insert(
            0,
            f"The batches were chosen by {chosen_by}. Chosen prompts are not like the rest of the pool, so that "
            "these numbers need not hold for other prompts, least of all for the method that chose them.",
        )
    else:
        details.insert(
            0, "Probes are rollouts that no method chose and none learns from, so they are fair to all methods."
        )
    return Finding("What does this page not say?", answer, details)


def _beliefs_alone(found: Tables) -> Finding:
    ((name, pool),) = found.material.pools.items()
    mixed = np.asarray(pool.prediction.mixed, np.float64)
    visited = int((pool.visits > 0).sum())
    details = [
        f"{name} has visited {visited:,} of {len(mixed):,} prompts in {pool.step:,} steps.",
        f"It expects {percent(float(mixed.mean()))} of the pool's groups to be mixed, and "
        f"{int((mixed > 0.5 + _ROUNDING).sum()):,} prompts to be mixed more often than not.",
        "A selector keeps no outcomes. Record the run and give its history to jaxsel.explore to judge the predictions.",
    ]
    return Finding("Can I trust these beliefs?", "This page cannot say: it has beliefs, but no outcomes.", details)


def _of(name: str, found: Tables) -> str:
    """Return how a sentence about a method begins: with its name, where there are several."""
    return f"{name}: " if len(found.methods) > 1 else ""


def _capitals(details: list[str]) -> list[str]:
    return [sentence[0].upper() + sentence[1:] for sentence in details]

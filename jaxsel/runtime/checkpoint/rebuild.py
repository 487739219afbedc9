"""Rebuilds a selector from its spec: the names and arguments of its parts. A checkpoint holds a spec and no code."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from jaxsel.base import Acquisition, Predictor, Rule, Selector
from jaxsel.predictors.arc_length import arc_length
from jaxsel.predictors.beta import beta_bernoulli
from jaxsel.predictors.hidden_markov import hidden_markov
from jaxsel.predictors.kalman import kalman
from jaxsel.predictors.recalibration import recalibrated
from jaxsel.predictors.state_space.predictor import state_space
from jaxsel.selection.acquisition import (
    entropy,
    expected_signal,
    expected_variance,
    mixed_near_target,
    mixed_probability,
    posterior_draw,
    target_success_rate,
    thompson,
)
from jaxsel.selection.composition import make_selector
from jaxsel.selection.diverse import diverse
from jaxsel.selection.exploring import exploring
from jaxsel.selection.paced import paced
from jaxsel.selection.rules import gumbel_top_k, random_subset, top_k, within_bounds

_PREDICTORS = {
    "beta_bernoulli": beta_bernoulli,
    "hidden_markov": hidden_markov,
    "state_space": state_space,
    "kalman": kalman,
    "arc_length": arc_length,
}
_ACQUISITIONS: dict[str, Callable[..., Acquisition]] = {
    "thompson": thompson,
    "target_success_rate": target_success_rate,
    "posterior_draw": posterior_draw,
    "mixed_probability": mixed_probability,
    "mixed_near_target": mixed_near_target,
    "entropy": entropy,
    "expected_variance": expected_variance,
    "expected_signal": expected_signal,
}
_RULES: dict[str, Callable[..., Rule]] = {
    "top_k": top_k,
    "within_bounds": within_bounds,
    "gumbel_top_k": gumbel_top_k,
    "random_subset": random_subset,
    "diverse": diverse,
}
_GIVE = "give the selector itself"


def selector_from_spec(spec: dict[str, Any]) -> Selector:
    """Compose the selector that has this spec. Only constructors of this package are called.

    Args:
        spec: `Selector.spec` or `PromptSelector.spec`, also in the flat form that earlier versions wrote.

    Raises:
        ValueError: The spec names a part that jaxsel does not have. Also for a selector with embeddings, strata, or a
            prior with one entry per prompt, because a spec does not contain these arrays.
    """
    own = {name: value for name, value in spec.items() if name != "candidate_ratio"}
    try:
        parts = _nested(own)
        selector = _composed(parts, method=own["method"], screened=own.get("screened"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no selector can be rebuilt from the spec {own} ({error}); {_GIVE}") from error
    if not _same(parts, _nested(selector.spec)):
        raise ValueError(f"the spec {own} would be rebuilt as {selector.spec}; {_GIVE}")
    # the given spec, because normalising an initial belief a second time may change its last digit
    return selector._replace(spec=own) if own.keys() == selector.spec.keys() else selector


def _composed(parts: dict[str, dict[str, Any]], **options: Any) -> Selector:
    """Compose the parts; `options` are those of `make_selector`."""
    rule = parts["rule"]
    if rule["name"] == "exploring":
        of_rule = {name: value for name, value in rule.items() if name not in ("name", "rule")}
        return exploring(_composed(parts | {"rule": rule["rule"]}, **options), **of_rule)
    if rule["name"] == "stratified":
        raise ValueError("a spec does not contain the strata")
    if parts["acquisition"]["name"] == "paced":
        settings = {name: value for name, value in parts["acquisition"].items() if name != "name"}
        return paced(_predictor(parts["predictor"]), rule=_built(_RULES, rule), **settings)
    predictor, acquisition = _predictor(parts["predictor"]), _built(_ACQUISITIONS, parts["acquisition"])
    return make_selector(predictor, acquisition, _built(_RULES, rule), **options)


def _predictor(spec: dict[str, Any]) -> Predictor:
    if spec["name"] == "amortized" or spec.get("embeddings") is not None:
        raise ValueError("a spec does not contain the embeddings")
    if spec["name"] == "recalibrated":
        options = {name: value for name, value in spec.items() if name not in ("name", "predictor")}
        return recalibrated(_predictor(spec["predictor"]), **options)
    return _built(_PREDICTORS, spec)


def _built(constructors: dict[str, Callable[..., Any]], spec: dict[str, Any]) -> Any:
    if spec["name"] not in constructors:
        raise ValueError(f"{spec['name']!r} is none of {', '.join(constructors)}")
    return constructors[spec["name"]](**{name: value for name, value in spec.items() if name != "name"})


def _nested(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the specs of predictor, acquisition and rule. A flat spec holds the arguments of all three in one dict."""
    if isinstance(spec["predictor"], dict):
        return {part: spec[part] for part in ("predictor", "acquisition", "rule")}
    named = spec | {"weight": spec["diversity_weight"]} if "diversity_weight" in spec else spec
    return {
        "predictor": _part_of_flat(_PREDICTORS | {"recalibrated": recalibrated}, named, "predictor"),
        "acquisition": _part_of_flat(_ACQUISITIONS, named, "acquisition"),
        "rule": _part_of_flat(_RULES, named, "rule"),
    }


def _part_of_flat(constructors: dict[str, Callable[..., Any]], spec: dict[str, Any], part: str) -> dict[str, Any]:
    name = spec[part]
    if name not in constructors:
        return {"name": name}
    found = {key: spec[key] for key in inspect.signature(constructors[name]).parameters if key in spec}
    if name == "recalibrated":
        found["predictor"] = _part_of_flat(constructors, spec["inner"], "predictor")
    return {"name": name, **found}


def _same(one: Any, other: Any) -> bool:
    """Return whether `other` has every entry of `one`; floating-point numbers may differ in their last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(name in other and _same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other

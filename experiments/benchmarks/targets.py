"""The targets of the benchmark, and whether the rows of a run meet them."""

from typing import NamedTuple

from experiments.benchmarks.timing import Row

_GIB = 2**30


class Target(NamedTuple):
    """One target, with the value measured for the compiled functions alone and for `PromptSelector`.

    Attributes:
        text: Name of the measured quantity.
        limit: Largest allowed value, or the smallest allowed value if `at_least` is set.
        kernels: Value for the compiled functions alone; None: not measured.
        public: Value for `PromptSelector`; None: not measured.
        at_least: Whether the limit is a minimum.
    """

    text: str
    limit: float
    kernels: float | None
    public: float | None
    at_least: bool = False

    def verdict(self, measured: float | None) -> str:
        """Return whether a measured value meets the target: "holds", "missed" or "not measured"."""
        if measured is None:
            return "not measured"
        return "holds" if (measured >= self.limit if self.at_least else measured <= self.limit) else "missed"

    def as_dict(self) -> dict[str, str | float | bool | None]:
        """Return the target and its verdicts for JSON."""
        verdicts = {"kernels_verdict": self.verdict(self.kernels), "public_verdict": self.verdict(self.public)}
        return {**self._asdict(), **verdicts}


def cpu_targets(rows: list[Row], memory: list[Row]) -> list[Target]:
    """Return the targets on two CPU cores, as ratios within one run.

    Where dps is compared with another implementation, the faster of two kernels counts: one copies the prediction out
    of the state, the other leaves it there.
    """
    million, ten_million = 10**6, 10**7

    def both(limit: float, text: str, ratio, *, at_least: bool = False) -> Target:
        return Target(text, limit, ratio("kernels"), ratio("jaxsel"), at_least)

    def against(method: str, operation: str, peer: str, *, inverse: bool = False):
        def ratio(implementation: str) -> float | None:
            jaxsel_ms = _best(rows, method, operation, implementation, million)
            peer_ms = _ms(rows, method, operation, peer, million)
            return _divide(peer_ms, jaxsel_ms) if inverse else _divide(jaxsel_ms, peer_ms)

        return ratio

    def growth(method: str, operation: str, small: int, large: int):
        return lambda implementation: _divide(
            _ms(rows, method, operation, implementation, large), _ms(rows, method, operation, implementation, small)
        )

    step = "observe + predict"
    found = [
        both(0.40, "Thompson selection at 1e6: share of NumPy's time", against("mopps", "select", "numpy")),
        both(
            50,
            "Thompson selection at 1e6: times as fast as jax.random.beta",
            against("mopps", "select", "jax", inverse=True),
            at_least=True,
        ),
        both(0.20, "dps observe + predict at 1e6: share of NumPy's time", against("dps", step, "numpy")),
        both(
            1000,
            "dps observe + predict at 1e6: times as fast as the dictionary",
            against("dps", step, "dictionary", inverse=True),
            at_least=True,
        ),
        both(2, "beta observe: time at 1e7 over time at 1e4", growth("mopps", "observe", 10**4, ten_million)),
    ]
    for method in ("mopps", "dps"):
        found.append(
            both(
                12,
                f"{method} select + observe: time at 1e7 over time at 1e6",
                growth(method, "select + observe", million, ten_million),
            )
        )
        peaks = [r["peak_bytes"] / _GIB for r in memory if (r["method"], r["num_prompts"]) == (method, ten_million)]
        found.append(Target(f"{method} at 1e7: peak memory of a step, GiB", 1.5, None, peaks[0] if peaks else None))
    return found


def gpu_targets(rows: list[Row]) -> list[Target]:
    """Return the targets on an H200."""
    found = []
    for method in ("mopps", "dps"):
        kernels, public = (_ms(rows, method, "select + observe", name, 10**7) for name in ("kernels", "jaxsel"))
        found.append(Target(f"{method} select + observe at 1e7, ms", 5, kernels, public))
    copy = _ms(rows, "dps", "observe + predict", "copy", 10**7)
    kernels, public = (
        _divide(copy, _best(rows, "dps", "observe + predict", name, 10**7)) for name in ("kernels", "jaxsel")
    )
    text = "dps observe + predict at 1e7: share of the copy bandwidth"
    return [*found, Target(text, 0.5, kernels, public, at_least=True)]


def _ms(rows: list[Row], method: str, operation: str, implementation: str, num_prompts: int) -> float | None:
    wanted = (method, operation, implementation, num_prompts)
    for row in rows:
        if (row["method"], row["operation"], row["implementation"], row["num_prompts"]) == wanted:
            return row["ms"]
    return None


def _best(rows: list[Row], method: str, operation: str, implementation: str, num_prompts: int) -> float | None:
    """Return the shorter time of kernels that copy a prediction out of the state and kernels that leave it there."""
    names = ("kernels", "fused kernels") if implementation == "kernels" else (implementation,)
    times = [_ms(rows, method, operation, name, num_prompts) for name in names]
    return min((time for time in times if time is not None), default=None)


def _divide(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator

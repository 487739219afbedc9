"""`jaxsel.explore`, and the report that it returns."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import Predictor, Selector
from jaxsel.evaluation.replay import History
from jaxsel.integrations._extras import extra
from jaxsel.report import material as sources
from jaxsel.report.comparison import comparison
from jaxsel.report.material import Material
from jaxsel.report.tables import Tables, tables
from jaxsel.report.verdict import Finding, verdict
from jaxsel.report.wording import NOT_DRAWN
from jaxsel.runtime.checkpoint.disk import local_path
from jaxsel.runtime.prompt_selector import PromptSelector

_NO_METHODS = "methods is {!r}; give at least one method, or None for the usual ones"


class Report:
    """An interactive report on predictions, which shows itself in a notebook. `jaxsel.explore` makes it.

    The report needs no kernel once it is shown or saved, and no network.

    Args:
        found: The data of the report.
        title: Title of the page.
    """

    def __init__(self, found: Tables, title: str):
        self._found, self.title = found, title

    @functools.cached_property
    def verdict(self) -> list[Finding]:
        """The verdict in words: questions with a short answer, and the evidence with standard errors."""
        return verdict(self._found)

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The data of the charts: columns by name of each table, for `pandas.DataFrame`."""
        return self._found.tables

    @property
    def comparison(self) -> dict[str, Any]:
        """The methods side by side, the best first: columns by name, for `pandas.DataFrame`.

        Every number has a column with its standard error, whose name ends in `_se`. The columns are `method`; `groups`,
        the number of judged groups; `log_score` of the solve state, in nats; `behind_best`, the log score of the best
        method minus this one, on the same groups; `brier` and `calibration_error` of P(mixed);
        `calibration_by_chance`, the calibration error that right predictions would show; `expected_mixed` and
        `observed_mixed`, shares of mixed groups; and `covers_90`, how often the 90% interval held the outcome.
        """
        return comparison(self._found)

    @property
    def charts(self) -> dict[str, Any]:
        """The charts by name, as Altair charts with their data, which a notebook shows on their own, without a network.

        They show the outcomes that the methods are judged on.
        """
        from jaxsel.report.charts.draw import charts
        from jaxsel.report.notebook import drawing

        return {name: drawing(chart, self._found) for name, chart in charts(self._found).items()}

    @functools.cached_property
    def html(self) -> str:
        """The page as one HTML document, which holds its data and its scripts."""
        from jaxsel.report.page import page

        return page(self._found, title=self.title)

    def save(self, path: str | Path) -> Path:
        """Write the page to an HTML file and return its path. A reader sees the old file or the whole new one.

        Raises:
            ValueError: The name does not end in .html, or is the address of a remote store.
            OSError: The file cannot be written.
        """
        from jaxsel.integrations.atomic_files import replaced_when_complete

        file = local_path(path)
        if file.suffix not in (".html", ".htm"):
            raise ValueError(f"path is {str(path)!r}; give the name of an HTML file, for example 'report.html'")
        with replaced_when_complete(file) as opened:
            opened.write(self.html.encode(errors="replace"))  # a text may hold a lone surrogate
        return file

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"* {found.question} {found.answer}" for found in self.verdict)])

    def _repr_html_(self) -> str:
        from jaxsel.report.notebook import frame

        return frame(self.html)


def explore(
    source: Any,
    methods: Mapping[str, Selector | Predictor] | Sequence[Selector] | None = None,
    *,
    num_prompts: int | None = None,
    texts: Sequence[str] | None = None,
    embeddings: ArrayLike | None = None,
    strata: Sequence[Any] | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Report:
    """Return an interactive report: can the predictions be trusted, where not, and which method is better?

    The report shows itself in a notebook, and `report.save("report.html")` writes it as one file that works offline. It
    begins with a verdict in words. Its charts are linked: whoever chooses predictions, steps or prompts in one of them
    sees these in all others, and the texts of the prompts. The pool is binned before it is drawn, so that a million
    prompts are no larger a page than a thousand. This function needs `pip install "jaxsel[explore]"`.

        report = jaxsel.explore("runs/mine", {"mopps": jaxsel.mopps(), "adaptive": jaxsel.adaptive()})
        print(report)
        report.save("report.html")

    Args:
        source: A folder with a recorded history, or of a run that recorded one; the result of
            `jaxsel.integrations.history.read_history`; a `History`; or a `PromptSelector`, which has beliefs and no
            outcomes.
        methods: Methods by name, or a list of selectors. They are replayed on the history and compared on the same
            groups. None: the predictions that were recorded; for a `History`, the methods that need no embeddings
            (mopps, dps and adaptive).
        num_prompts: Size of the pool, for a `History`. None: just large enough for the history.
        texts: The prompts' texts, in place of the recorded ones.
        embeddings: The prompts' embeddings `[N, d]`, in place of the recorded ones, for a map of the pool.
        strata: A label for each prompt, for example its task, by which the maps can be coloured.
        title: Title of the page.
        seed: Seed of the replays and of the random prompts that the report follows.

    Raises:
        ValueError: The source holds no history, or an argument does not fit it.
        ImportError: The extra `explore`, or for a folder the extra `history`, is not installed.
    """
    with extra("explore"):
        import jaxsel.report.charts.draw  # noqa: F401  (fails before the replay if Altair is missing)

    _validate.integer_in(0, 2**32, seed=seed)
    _check_page(title, texts=texts, strata=strata)
    if num_prompts is not None and not isinstance(source, History):
        raise ValueError(f"num_prompts is {num_prompts}, and the source knows the size of its pool; leave it out")
    named = _named(methods)
    material = _material(source, named, num_prompts, seed)
    material = sources.with_prompts(material, texts, embeddings, strata)
    what = "beliefs" if isinstance(source, PromptSelector) else "predictions"
    return Report(tables(material, seed=seed), title or f"How good are the {what}?")


def _check_page(title: Any, **columns: Any) -> None:
    if not (title is None or isinstance(title, str)):
        raise ValueError(f"title is {title!r:.60}; give a text")
    if title is not None and title != title.encode(errors="replace").decode():
        raise ValueError(f"title is {title!r:.60}, which holds half of a surrogate pair; give whole characters")
    given = {name: column for name, column in columns.items() if column is not None}
    _validate.listed("one per prompt", **given)
    for name, column in given.items():
        is_ordered = hasattr(column, "__len__") and hasattr(column, "__getitem__") and not isinstance(column, Mapping)
        if not is_ordered or getattr(column, "ndim", 1) != 1:
            raise ValueError(f"{name} is a {type(column).__name__} without one order; give a list, one per prompt")


def _named(methods: Any) -> Mapping[str, Selector | Predictor] | None:
    if methods is None:
        return None
    if isinstance(methods, Mapping):
        if not methods:
            raise ValueError(_NO_METHODS.format(methods))
        for name in methods:
            if not isinstance(name, str) or NOT_DRAWN.search(name):
                raise ValueError(f"methods has the name {name!r}; give a text whose characters a chart can show")
        return methods
    many = [methods] if isinstance(methods, Selector | Predictor) else methods
    _validate.listed("methods by name, or a list of methods", methods=many)
    many = list(many)
    if not many:
        raise ValueError(_NO_METHODS.format(methods))
    names = [
        str(one.spec.get("method", one.spec.get("name", "method")))
        if isinstance(one, Selector | Predictor)
        else "method"
        for one in many
    ]
    if len(set(names)) < len(names):
        raise ValueError(f"methods are named {', '.join(names)}; give a dictionary with a name for each")
    return dict(zip(names, many, strict=True))


def _material(
    source: Any, methods: Mapping[str, Selector | Predictor] | None, num_prompts: int | None, seed: int
) -> Material:
    if isinstance(source, PromptSelector):
        if methods is not None:
            raise ValueError("methods cannot be replayed on a PromptSelector, which keeps no outcomes; give a history")
        return sources.of_selector(source)
    if isinstance(source, History):
        size = sources.checked_size(source, num_prompts)
        return sources.of_methods(source, methods, num_prompts=size, seed=seed)
    recorded = sources.recorded_in(local_path(source, "source")) if isinstance(source, str | Path) else source
    if not {"history", "rollouts", "probes", "spec"} <= set(getattr(recorded, "_fields", ())):
        raise ValueError(
            f"source is a {type(source).__name__}; give a folder, a recorded history, a History or a PromptSelector"
        )
    if methods is None:
        return sources.of_recorded(recorded)
    material = sources.of_methods(
        recorded.history, methods, num_prompts=recorded.num_prompts, probes=recorded.probes, seed=seed
    )
    chosen_by = str(recorded.spec.get("method", "another method"))
    return material._replace(chosen_by=chosen_by, texts=recorded.texts, embeddings=recorded.embeddings)

"""The judged methods side by side, as one small table."""

from jaxsel.report.tables import Table, Tables

_COLUMNS = {
    "states": "log_score",
    "states behind": "behind_best",
    "brier": "brier",
    "calibration": "calibration_error",
    "predicted": "expected_mixed",
    "realised": "observed_mixed",
    "covers 90%": "covers_90",
}


def comparison(found: Tables) -> Table:
    """Return the columns that `Report.comparison` describes, one row per method. Without outcomes, they are empty."""
    names = [name for name in found.methods if name in found.judged]
    judged = [found.judged[name] for name in names]
    columns: Table = {"method": names, "groups": [one.groups for one in judged]}
    for number, column in _COLUMNS.items():
        columns[column] = [one.numbers[number].value for one in judged]
        columns[f"{column}_se"] = [one.numbers[number].error for one in judged]
    return columns | {"calibration_by_chance": [one.by_chance for one in judged]}

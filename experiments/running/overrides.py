"""The settings `NAME=VALUE` of a command line, whose values follow Hydra's grammar."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from experiments.running.config import OF_COMMAND, RunConfig, flat_settings

_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
_TEMPLATE = "data.template"


def readable(arguments: Iterable[str]) -> list[str]:
    """Return the arguments of a command line so that Hydra reads every text.

    Hydra's grammar does not allow some texts without a second pair of quotes: a template such as `{prompt}`, or the
    folder of a run, with `,` and `=` in its name. It reads others as numbers: `1e5` would become `100000.0`. If a
    setting is a text, and Hydra reads no text, the value is quoted. All other arguments stay as they are.

    Raises:
        ValueError: A setting does not exist, or the folder of a run is not on this machine.
    """
    settings = flat_settings(RunConfig())
    return [_readable(argument, settings) for argument in arguments]


def check_command(config: Mapping[Any, Any]) -> None:
    """Check the settings of the command `experiments.train`, which Hydra takes as texts too: "no" would count as true.

    Raises:
        ValueError: `resume` or `dry_run` is neither true nor false, or `threads` is not an integer of at least 0.
    """
    for name in ("resume", "dry_run"):
        if not isinstance(config.get(name, False), bool):
            raise ValueError(f"{name} is {config[name]!r}; give true or false")
    threads = config.get("threads", 0)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise ValueError(f"threads is {threads!r}; give an integer of at least 0 (0: as many as torch takes)")


def swept_in(arguments: Iterable[str]) -> list[str]:
    """Return the names of the settings that have several values on a command line."""
    overrides = [hydra_override(argument) for argument in arguments if _is_setting(argument)]
    names = [override.key_or_group for override in overrides if override is not None and override.is_sweep_override()]
    return [name for name in names if not name.startswith("hydra")]


def hydra_override(argument: str) -> Override | None:
    """Return the argument as Hydra reads it; None: Hydra cannot read it, and will say why."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def text_of(argument: str) -> str:
    """Return the text of NAME=TEXT for OmegaConf: as it stands, or without the quotes around it."""
    text, override = argument.partition("=")[2], hydra_override(argument)
    if override is not None and text[:1] in ("'", '"') and isinstance(unquoted := override.value(), str):
        text = unquoted
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf replaces ${...}, unless a backslash is before it


def _readable(argument: str, settings: dict[str, object]) -> str:
    name, _, value = argument.partition("=")
    if name in _FOLDERS:
        from jaxsel.runtime.checkpoint.disk import local_path  # imports JAX, which --help does not need

        given = value if value[:1] in ("'", '"') else str(local_path(value, name))
        return f"{name}={given if _is_text(f'{name}={given}') else _quoted(given)}"
    if not _is_setting(argument) or name.startswith(("hydra", "+", "~")):
        return argument
    if name not in settings:
        if name not in OF_COMMAND and not any(known.startswith(f"{name}.") for known in settings):
            near = difflib.get_close_matches(name, settings, n=1, cutoff=0)
            raise ValueError(f"{name} is no setting; the nearest name is {near[0]}, and --help describes all")
    elif isinstance(settings[name], str) and _is_misread(argument, name):
        return f"{name}={_quoted(text_of(argument) if name == _TEMPLATE else value)}"
    return argument


def _quoted(text: str) -> str:
    # Hydra reads a backslash as an escape only before a quote and at the end
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text)
    return f"'{escaped}'"


def _is_text(argument: str) -> bool:
    override = hydra_override(argument)
    return override is not None and isinstance(override.value(), str)


def _is_misread(argument: str, name: str) -> bool:
    """Return whether Hydra reads no text, or would replace a placeholder, as in a template with ${prompt}."""
    override = hydra_override(argument)
    value = None if override is None else override.value()
    if isinstance(value, str):
        return name == _TEMPLATE and "${" in value
    return value is None or isinstance(value, int | float)


def _is_setting(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")

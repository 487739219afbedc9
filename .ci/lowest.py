"""Prints pip constraints with the oldest version of each dependency that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
used = ("rl", "embeddings", "explore", "history", "plot", "cluster", "lora", "dev")
for requirement in [*project["dependencies"], *(requirement for extra in used for requirement in extras[extra])]:
    if lowest := re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement):
        print(f"{lowest[1]}=={lowest[2]}")

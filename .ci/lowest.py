"""Prints the oldest version that pyproject.toml allows of each dependency, as pip's constraints."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["rl"], *extras["plot"], *extras["cluster"], *extras["dev"]]:
    if lowest := re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement):
        print(f"{lowest[1]}=={lowest[2]}")

"""Print pip constraints that pin every dependency of the package at its lower bound.

Usage: ``python scripts/lowest.py pyproject.toml > constraints.txt``
"""

import re
import sys
import tomllib
from pathlib import Path


def lower_bounds(pyproject: str) -> dict[str, str]:
    """Return the lowest version of each distribution among the core dependencies and the extras."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    found = (re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in found if match}


if __name__ == "__main__":
    for name, version in lower_bounds(Path(sys.argv[1]).read_text(encoding="utf-8")).items():
        print(f"{name}=={version}")

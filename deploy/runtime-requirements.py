"""Prints what the product needs to run, one requirement a line, from its pyproject.toml.

With it the image's dependencies are a layer of their own, which our own code does not touch.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
sys.stdout.write("\n".join(project["dependencies"]) + "\n")

"""Prints what the image installs of others, one requirement a line, from pyproject.toml.

With it the image's dependencies are a layer of their own, which our own code does not touch.
"""

import sys
import tomllib
from pathlib import Path

# Who runs an image cannot add to it.
EXTRAS = ("otel",)

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extras = project["optional-dependencies"]
wanted = sum((extras[name] for name in EXTRAS), project["dependencies"])
sys.stdout.write("\n".join(wanted) + "\n")

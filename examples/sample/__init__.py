"""The sample backbone that comes with the project, and the recipe that made it."""

from pathlib import Path

NAME = "test_resnet"
WEIGHTS = Path(__file__).with_name(f"{NAME}.safetensors")

"""`python -m protuning`."""

from protuning.cli import main

main()

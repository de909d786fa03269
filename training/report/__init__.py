"""A training run's report for people: what goes into it, and the files it becomes."""

from training.report.contents import RunReport
from training.report.write import write_report

__all__ = ["RunReport", "write_report"]

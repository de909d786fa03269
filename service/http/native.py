"""The native routes: tasks, their versions, and predictions."""

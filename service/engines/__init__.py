"""Engines: they run mixed-task batches on one frozen backbone, and know nothing of requests."""

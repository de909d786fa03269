"""From single requests to mixed batches: what runs next, and who runs it."""

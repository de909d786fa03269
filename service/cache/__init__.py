"""Which adapters are at hand, in which tier of memory."""

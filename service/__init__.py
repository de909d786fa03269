"""How adapters are served: one frozen backbone, many tasks, one pass."""

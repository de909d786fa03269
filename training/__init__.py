"""How adapters are made: from a folder of labelled images to a checkpoint and its report."""

"""Where adapters live: blobs by digest, the index of tasks and versions, the registry on top."""

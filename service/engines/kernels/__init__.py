"""The compiled kernels of the engines: built once for the machine's processor, and kept."""

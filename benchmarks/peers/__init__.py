"""What a user would pick instead, in environments of their own: `python -m benchmarks.peers`.

Each peer is a small program as its own documentation would have it. Servers take the same images
over HTTP; libraries run the same mixed batches in their own process, with no HTTP at all.
"""

"""The process line: HTTP processes in front of one engine process.

An HTTP process parses, checks keys and decodes. It writes the pixels of a request into memory that
it shares with the engine process, and asks over a socket for predictions about them. Limits,
leases, queue and metrics are on the engine's side, so an HTTP process that dies leaves nothing.
"""

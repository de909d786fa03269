"""The demo: train three adapters, serve them from one backbone, ask all of them at once."""

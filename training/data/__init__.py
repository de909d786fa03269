"""Labelled image sets: opening, splitting, checking and sampling them."""

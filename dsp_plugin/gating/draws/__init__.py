"""Draws of the gates: each belongs to the forward that made it."""

"""Ranking heads by importance, and removing them in that order."""

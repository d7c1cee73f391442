"""Translating with models in memory, and scoring them."""

"""Watching that a method spread over its host is whole: who wants to know of optimizer steps."""

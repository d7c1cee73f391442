"""Folders of models: pruned models, a user's own modules, the hub."""

"""A sparse diff while it is trained: vector, gates, groups, optimizers."""

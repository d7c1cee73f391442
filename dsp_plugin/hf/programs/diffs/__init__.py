"""The programs of diff pruning."""

"""The programs of scripts/mt."""

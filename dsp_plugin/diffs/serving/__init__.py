"""Many tasks on one base."""

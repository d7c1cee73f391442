"""The file of a diff: writing, reading, applying, reverting, comparing."""

"""fairseq checkpoints as data."""

"""Taking heads out of fairseq checkpoints, and exporting them."""

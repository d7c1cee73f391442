"""DSEE on fairseq: updates of low rank plus a few entries on a trained translation model that is pruned."""

"""The programs of DSEE on Transformers: the update, the pruning under it, and training on."""

"""Training sparse diffs with the stock Trainer, and packs on the hub."""

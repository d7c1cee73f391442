"""The choice of units by their cost, for a fairseq checkpoint: scores, costs, checkpoints without some."""

"""The pruning methods on fairseq: a model, its options and its task each."""

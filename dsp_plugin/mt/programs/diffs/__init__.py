"""The programs of diff pruning on fairseq."""

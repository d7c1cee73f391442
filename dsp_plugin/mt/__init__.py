"""The fairseq shell's own modules: attention, checkpoints, generation, pruning, export."""

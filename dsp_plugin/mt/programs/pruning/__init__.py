"""What `dsp prune` and `dsp curve` do with a fairseq checkpoint, where a speed is asked for."""

"""What `dsp prune` and `dsp curve` do with a Transformers folder."""

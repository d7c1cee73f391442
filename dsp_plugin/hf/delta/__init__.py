"""Delta-Tuning on Transformers: prompt, BitFit, adapter and the house's own updates, in any combination."""

"""Delta-Tuning on fairseq: BitFit, bottleneck adapters and LoRA on a trained translation model."""

"""Where a Transformers model keeps its attention heads, and what follows their number."""

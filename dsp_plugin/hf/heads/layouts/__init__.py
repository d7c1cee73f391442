"""Location of a Transformers model's attention heads, and of the sizes that follow their number."""

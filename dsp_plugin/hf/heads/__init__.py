"""Gates on the heads of Transformers models, their importance, their training."""

"""Taking heads out of Transformers models for good."""

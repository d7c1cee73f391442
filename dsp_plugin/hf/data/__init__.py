"""GLUE, SQuAD, and text for causal language models, for Transformers models."""

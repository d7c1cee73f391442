"""GLUE and SQuAD for Transformers models."""

"""The programs of Delta-Tuning on Transformers."""

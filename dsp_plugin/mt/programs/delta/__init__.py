"""The programs of Delta-Tuning on fairseq."""

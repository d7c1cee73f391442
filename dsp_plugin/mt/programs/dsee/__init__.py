"""The programs of DSEE on fairseq."""

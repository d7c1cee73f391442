"""fairseq models; fairseq imports every module here."""

"""fairseq's transformer with gates on its heads."""

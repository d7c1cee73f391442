"""Tables of results, made from records only."""

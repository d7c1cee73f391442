"""What every training on fairseq has: data and options looked at first, one training a folder."""

"""Pictures made from records: curves, bars, head maps."""

"""What every training program has: options, data, Trainer, resume, records."""

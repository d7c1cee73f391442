"""What every program of scripts/mt stands on: its command line, its refusals, a training as a stage."""

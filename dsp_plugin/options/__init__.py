"""What a user gives and is told: numbers held to their meaning, errors in one line, text made harmless."""

"""Result records, and how files are written: whole or not at all, sealed, read as data. No host."""

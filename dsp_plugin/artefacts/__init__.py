"""What the small files of a task share: the base they are bound to, the checksum, checks of their content."""

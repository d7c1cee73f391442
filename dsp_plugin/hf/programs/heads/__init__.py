"""The programs that prune heads."""

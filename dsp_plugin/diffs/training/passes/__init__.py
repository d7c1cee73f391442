"""The arithmetic of diff pruning over flat memory: gates, noise, and the passes in torch and in C++."""

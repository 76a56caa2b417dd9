"""What /proc tells of memory, as the real files read."""

"""mm/memory.c as a package: the fault path, zapping, raw frame numbers."""

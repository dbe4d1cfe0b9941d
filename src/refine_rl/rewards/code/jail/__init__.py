"""What runs in a worker's processes, in an interpreter without site packages: the standard library alone."""

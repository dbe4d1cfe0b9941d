"""A run in several processes, on one machine or more: the first one runs the pipeline as ever, and has the
others answer and learn beside it."""

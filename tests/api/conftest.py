collect_ignore = ["typed.py"]  # a caller's file, for a type checker: not to be run

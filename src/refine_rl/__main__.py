"""`python -m refine_rl` is the command `refine`."""

from refine_rl.cli import main

if __name__ == "__main__":
    main()

"""`python -m mgsr` is the command `mgsr`."""

from mgsr.cli import main

if __name__ == "__main__":
    main()

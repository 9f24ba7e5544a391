"""`python -m rayul` is the same as the `rayul` command."""

from rayul.cli import main

if __name__ == "__main__":
    main()

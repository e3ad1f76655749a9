"""`python -m graphsched`."""

from graphsched.cli import main

if __name__ == "__main__":
    main()

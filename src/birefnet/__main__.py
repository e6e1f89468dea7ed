"""`python -m birefnet` is the command `birefnet`."""

from birefnet.cli import main

if __name__ == "__main__":
    main()

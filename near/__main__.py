"""python -m near ...: the command `near`."""

from near.app.command import main

if __name__ == "__main__":
    main()

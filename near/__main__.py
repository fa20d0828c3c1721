"""python -m near COMMAND."""

from near.app.command import main

main()

"""`python -m genjax.cli`."""

from genjax.cli import main

main()

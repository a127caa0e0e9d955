"""`python -m p2pnet`: the same as the `p2pnet` command."""

from p2pnet.cli.main import main

main()

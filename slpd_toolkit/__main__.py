"""`python -m slpd_toolkit`, which is what torchrun starts."""

from slpd_toolkit.cli.app import main

if __name__ == "__main__":
    main()

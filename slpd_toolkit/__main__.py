"""`python -m slpd_toolkit`, which is what torchrun starts."""

from slpd_toolkit.cli import main

if __name__ == "__main__":
    main()

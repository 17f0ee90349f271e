"""Run the command by ``python -m unrolled.cli``."""

from unrolled.cli.main import main

if __name__ == "__main__":
    main()

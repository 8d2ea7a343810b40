"""``python -m runner`` is ``nanokimi``."""

from runner.cli.main import main

if __name__ == "__main__":
    main()

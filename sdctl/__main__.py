"""The entry of the command line, for the script `sdctl` and for `python -m sdctl`.

Answers a lone `--version` by itself, since scripts ask it often and Typer is slow to import.
"""

import gc
import sys

# What is imported stays: looking through it for garbage every 700 objects is a tenth of AWS clients' start.
gc.set_threshold(20_000, 20, 50)


def main() -> None:
    """Run the command line with the process's arguments, and leave with its exit code."""
    if sys.argv[1:] == ["--version"]:
        from sdctl import __version__

        sys.stdout.write(f"sdctl {__version__}\n")
        return
    try:
        from sdctl.cli import run
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

"""The entry of the command line, for the script `sdctl` and for `python -m sdctl`.

Answers a lone `--version` by itself, since scripts ask it often and Typer is slow to import.
"""

import sys


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

"""Make an inference server load its model before the first task, by one request.

usage: warm_up.py URL FILE. Standard library only. Exits 0 whatever the server answers.
"""

import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 900


def main() -> None:
    """Post the file, and say how that went, as one line of JSON."""
    url, path = sys.argv[1:]
    request = urllib.request.Request(
        url, data=pathlib.Path(path).read_bytes(), headers={"Content-Type": "application/json"}
    )
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            answer.read()
            result = str(answer.status)
    except urllib.error.HTTPError as error:
        result = str(error.code)
    except OSError as error:
        result = type(error).__name__
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"action": "warm_up", "answer": result, "seconds": seconds}), file=sys.stderr)


if __name__ == "__main__":
    main()

"""`python -m deploy.probe readyz`: ask the service of this container whether it is well; exit 1 and its reasons where it is not."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

ASKING_TAKES = 4.0


def main(path: str) -> int:
    """Ask `path` of the address that `MILLRACE_HEALTH_ADDR` names."""
    port = os.environ.get("MILLRACE_HEALTH_ADDR", "").rpartition(":")[2]
    if not port.isdecimal():
        sys.stderr.write("MILLRACE_HEALTH_ADDR names no port\n")
        return 1
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=ASKING_TAKES) as answer:
            sys.stdout.write(answer.read().decode("utf-8", "replace") + "\n")
            return 0
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read().decode("utf-8", "replace") + "\n")
    except OSError as error:
        sys.stderr.write(f"no answer: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "readyz"))

"""Ends with 0 if the server in this container would serve a request; needs no library.

Docker and Compose ask it; Kubernetes asks the route itself.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT = 4.0


def main() -> int:
    """0 if it is ready; 1, and why not on standard error, if it is not."""
    url = f"http://127.0.0.1:{os.environ.get('PROTUNING_PORT', '8000')}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT):
            return 0
    except OSError as error:
        body = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
        sys.stderr.write(f"{url}: {error} {body}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

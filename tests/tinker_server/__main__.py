"""python -m tinker_server FOLDER [STORE]: serves the model of a folder until Ctrl-C."""

import sys
import tempfile
import threading
from pathlib import Path

from tinker_server import KEY, TinkerServer

if __name__ == "__main__":
    store = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    server = TinkerServer(Path(sys.argv[1]), store=store)
    for line in (f"base_url {server.url}", f"base_model {server.manners.name}", f"TINKER_API_KEY={KEY}"):
        print(line, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()

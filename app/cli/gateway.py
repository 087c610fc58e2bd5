"""The gateway's process: uvicorn on a socket that `temper serve` has already bound.

The supervisor keeps the socket, so that the port stays ours while a gateway is started again; requests wait meanwhile.
"""

import socket
import sys

import uvicorn

SHUTDOWN_SECONDS = 5


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        "app.main:create_app",
        factory=True,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

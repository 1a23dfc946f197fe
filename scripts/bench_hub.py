"""A hub that answers `_info` and nothing else, as cheaply as Python can: `bench_hub.py NAME`.

It listens on every loopback address: thousands of backends need addresses of their own.
"""

import base64
import hashlib
import json
import re
import select
import socket
import sys

KEY = re.compile(rb"sec-websocket-key: *([^\r]+)\r", re.IGNORECASE)
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BACKLOG = 1024
RECEIVE_BYTES = 4096


def frame(message: object) -> bytes:
    """Make a text frame, as servers send it."""
    text = json.dumps(message).encode()
    size = bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")
    return b"\x81" + size + text


def answer_of(name: str) -> bytes:
    """Make the frames that answer `_info`."""
    metadata = {"provenance": [name], "plexus_hash": "0f1e2d3c4b5a6978", "timestamp": 1}
    content = {"backend": name, "version": "1.0"}
    data = {"type": "data", "metadata": metadata, "content_type": "_info", "content": content}
    answer = frame({"jsonrpc": "2.0", "id": 1, "result": 7})
    for item in (data, {"type": "done", "metadata": metadata}):
        params = {"subscription": 7, "result": item}
        answer += frame({"jsonrpc": "2.0", "method": "result", "params": params})
    return answer


def upgrade(head: bytes) -> bytes:
    """Make the response that opens the WebSocket."""
    key = KEY.search(head)
    accept = base64.b64encode(hashlib.sha1(key[1] + MAGIC).digest()) if key else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def serve(listener: socket.socket, answer: bytes) -> None:
    """Answer whoever comes, without end."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    upgraded: dict[int, bool] = {}
    connections: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = connections[number]
            try:
                data = connection.recv(RECEIVE_BYTES)
                if data and number not in upgraded:
                    upgraded[number] = True
                    connection.sendall(upgrade(data))
                elif data and upgraded[number]:
                    upgraded[number] = False
                    connection.sendall(answer)
            except OSError:
                data = b""
            if not data:
                poll.unregister(number)
                upgraded.pop(number, None)
                connections.pop(number).close()


def main() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", 0))
        listener.listen(BACKLOG)
        print(f"ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        serve(listener, answer_of(sys.argv[1]))


if __name__ == "__main__":
    main()

"""A small object store for bench_far: files of a folder by S3's and plain HTTP requests, slowly.

It answers GET (ranges too), HEAD and ListObjectsV2, each after a fixed time, whatever the
signature, and counts requests and the bytes of bodies.
"""

from __future__ import annotations

import json
import re
import sys
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Handler(BaseHTTPRequestHandler):
    """Serves ``root``: its folders are buckets."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, root: Path, delay: float, counts: dict[str, int], *args: object) -> None:
        self.root, self.delay, self.counts = root, delay, counts
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        """Tell of a file."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Send a file, a part of one, a list, or what was counted."""
        if self.path == "/counts":
            self._send(200, json.dumps(self.counts).encode())
        elif self.path == "/clear":
            self.counts.update(requests=0, bytes=0)
            self._send(200, b"")
        else:
            self._answer(body=True)

    def _answer(self, body: bool) -> None:
        time.sleep(self.delay)
        split = urlsplit(self.path)
        query, path = parse_qs(split.query), self.root / unquote(split.path).strip("/")
        self.counts["requests"] += 1
        if "list-type" in query:
            self._send(200, self._listed(path, query), "application/xml")
        elif not path.is_file():
            self._send(404, b"", body=body)
        else:
            size, found = path.stat().st_size, _RANGE.match(self.headers.get("Range", ""))
            begin = int(found[1]) if found else 0
            end = min(size, int(found[2]) + 1) if found and found[2] else size
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(end - begin) if body else b""
            self.counts["bytes"] += len(data)
            span = f"bytes {begin}-{end - 1}/{size}" if found else None
            self._send(206 if found else 200, data, length=end - begin, span=span)

    def _listed(self, bucket: Path, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        files, folders = [], set()
        for path in sorted(bucket.rglob("*")):
            key = path.relative_to(bucket).as_posix()
            if path.is_dir() or not key.startswith(prefix):
                continue
            inner, cut, _ = key[len(prefix) :].partition("/")
            if delimiter and cut:
                folders.add(f"{prefix}{inner}/")
            else:
                files.append((key, path.stat().st_size))
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size in files
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        )
        count = len(files) + len(folders)
        return (
            '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>'
            f"<KeyCount>{count}</KeyCount>{contents}{common}</ListBucketResult>"
        ).encode()

    def _send(
        self,
        status: int,
        data: bytes,
        kind: str = "application/octet-stream",
        length: int | None = None,
        span: str | None = None,
        body: bool = True,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"x"')
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Threads end with the process."""

    daemon_threads, request_queue_size = True, 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


def main() -> None:
    """Serve a folder; prints the port."""
    root, delay = Path(sys.argv[1]), float(sys.argv[2])
    handler = partial(Handler, root, delay, {"requests": 0, "bytes": 0})
    with Server(("127.0.0.1", 0), handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

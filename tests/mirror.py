"""A local mirror of published weights, and files as torch writes them."""

import contextlib
import hashlib
import http.server
import threading
import zipfile

import numpy as np


class Mirror:
    """Files by path of an address, and the requests that came.

    Attributes:
        files: content by path, `/resnet18-0123abcd.pth`.
        requests: the paths that were asked for.
        cut: whether answers end before their length.
    """

    def __init__(self):
        self.files, self.requests, self.cut = {}, [], False
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                mirror.requests.append(self.path)
                content = mirror.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                # What the Hub tells of a large file.
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()
                if with_body:
                    self.wfile.write(content[: len(content) // 2] if mirror.cut else content)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self):
        """Serve while the context is entered."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def write_torch_file(path, tensors):
    """Write named float32 arrays as `torch.save` does, without torch."""
    items = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for key, (name, x) in enumerate(tensors.items()):
            storage = f"(S'storage'\nctorch\nFloatStorage\nS'{key}'\nS'cpu'\nI{x.size}\ntQ"
            size = "".join(f"I{n}\n" for n in x.shape)
            stride = "".join(f"I{n // 4}\n" for n in np.empty(x.shape, np.float32).strides)
            call = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n({size}t({stride}ttR"
            items.append(f"S'{name}'\n{call}s")
            file.writestr(f"x/data/{key}", np.ascontiguousarray(x, np.float32).tobytes())
        file.writestr("x/data.pkl", f"(d{''.join(items)}.")

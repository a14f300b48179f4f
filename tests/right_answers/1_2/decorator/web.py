"""The page with nothing but the standard library."""

import argparse
import json
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from calculator import TASKS, app, describe

FORM = """<!doctype html><title>Sums</title>
<form onsubmit="send(event)">
<input id="operation" value="add"><input id="args" value='["0.1", 0.2]'><button>=</button>
</form><output id="out"></output>
<script>
async function send(event) {
  event.preventDefault();
  const body = `{"operation": "${operation.value}", "args": ${args.value}}`;
  let answer = await (await fetch("/calculations", {method: "POST", body})).json();
  for (let n = 0; n < 100 && "id" in answer && !("result" in answer || "error" in answer); n++) {
    await new Promise(done => setTimeout(done, 100));
    answer = await (await fetch("/calculations/" + answer.id)).json();
  }
  out.textContent = JSON.stringify(answer);
}
</script>"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            return self.answer(200, FORM, "text/html; charset=utf-8")
        _, _, id = self.path.rpartition("/calculations/")
        if not id or not app.backend.client.sismember("sums:ids", id):
            return self.answer(404, {"error": "no such id"})
        result = app.AsyncResult(id)
        told = {"id": id, "state": result.state}
        if told["state"] in ("SUCCESS", "FAILURE"):
            value = result.result
            failed = isinstance(value, BaseException)
            told["error" if failed else "result"] = describe(value) if failed else value
        return self.answer(200, told)

    def do_POST(self):
        try:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
            task, args = TASKS[order["operation"]], list(order["args"])
        except (ValueError, KeyError, TypeError) as error:
            return self.answer(422, {"error": describe(error)})
        if self.path != "/calculations":
            return self.answer(404, {"error": "no such page"})
        id = str(uuid.uuid4())
        app.backend.client.sadd("sums:ids", id)
        task.apply_async(args, task_id=id)
        return self.answer(202, {"id": id})

    def answer(self, status, body, kind="application/json"):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Page).serve_forever()

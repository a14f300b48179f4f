"""The calculator's page, `python web.py --port 8000`. It asks the workers to do the sums."""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn
from celery import states, uuid
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from calculator import OPERATIONS, app, describe

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Calculator</title>
<h1>Calculator</h1>
<form id="form" action="/calculations" method="post">
  <label>Operation <select name="operation">{options}</select></label>
  <label>Arguments <input name="args" value="1, 2" placeholder="1, 2"></label>
  <button>Calculate</button>
</form>
<pre id="answer"></pre>
<script>
  const show = text => document.getElementById("answer").textContent = text;
  document.getElementById("form").onsubmit = async event => {
    event.preventDefault();
    const form = new FormData(event.target);
    const args = form.get("args").split(",").map(text => text.trim()).filter(text => text);
    const reply = await fetch("/calculations", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify({operation: form.get("operation"), args}),
    });
    if (reply.status !== 202) return show(await reply.text());
    follow((await reply.json()).id);
  };
  async function follow(id) {
    const text = await (await fetch("/calculations/" + id)).text();
    // Shown as it came: JavaScript would round the integers that Python counted exactly.
    show(text);
    if (!/"state": ?"(SUCCESS|FAILURE)"/.test(text)) setTimeout(follow, 300, id);
  }
</script>
</html>
""".replace("{options}", "".join(f"<option>{name}</option>" for name in OPERATIONS))

web = FastAPI(title="Calculator")


class Order(BaseModel):
    """A calculation as a client asks for it."""

    operation: str
    args: list[Any]


# The routes are plain functions, not `async def`: FastAPI runs each in a thread of its own, so
# Redis and the broker may take their time and other requests are still answered. None of them
# waits for a result.


@web.get("/", response_class=HTMLResponse)
def page() -> str:
    """Show the form."""
    return PAGE


@web.post("/calculations", status_code=202)
def order(wanted: Order) -> dict[str, str]:
    """Publish a calculation and answer at once with the id to ask for it by."""
    task = OPERATIONS.get(wanted.operation)
    if task is None:
        raise HTTPException(422, f"unknown operation: {wanted.operation}")
    id = uuid()
    # To Celery, an id that nobody ever used and one that waits in the queue are both PENDING. So
    # the page remembers its own ids, in Redis, where a second web process finds them too. It does
    # so before it publishes, and for as long as Celery keeps a result.
    app.backend.client.set(key(id), wanted.operation, ex=app.conf.result_expires)
    task.apply_async(wanted.args, task_id=id)
    return {"id": id}


@web.get("/calculations/{id}")
def show(id: str) -> JSONResponse:
    """Say how a calculation stands."""
    if not app.backend.client.exists(key(id)):
        raise HTTPException(404, "no such calculation")
    found = app.AsyncResult(id)
    answer = {"id": id, "state": found.state}
    if answer["state"] == states.SUCCESS:
        answer["result"] = found.result
    elif answer["state"] == states.FAILURE:
        answer["error"] = describe(found.result)
    return JSONResponse(answer)


@web.exception_handler(RequestValidationError)
def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong with a request, without sending all of it back."""
    return JSONResponse({"detail": [problem["msg"] for problem in error.errors()]}, 422)


def key(id: str) -> str:
    """Return where Redis remembers an id."""
    return f"calculator:web:{id}"


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="The calculator's page.")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen on")
    uvicorn.run(web, host="127.0.0.1", port=parser.parse_args().port)


if __name__ == "__main__":
    main()

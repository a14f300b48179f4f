"""The calculator's page."""

import argparse
from typing import Any

import uvicorn
from celery import uuid
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from calculator import OPERATIONS, app, describe

web = FastAPI()
PAGE = """<!doctype html>
<title>Calculator</title>
<form id="form">
<input name="operation" value="add"> <input name="args" value="[1, 2]"> <button>Calculate</button>
</form>
<pre id="answer"></pre>
<script>
document.getElementById("form").onsubmit = async event => {
  event.preventDefault();
  const {operation, args} = Object.fromEntries(new FormData(event.target));
  const body = JSON.stringify({operation, args: JSON.parse(args)});
  const headers = {"Content-Type": "application/json"};
  const reply = await fetch("/calculations", {method: "POST", headers, body});
  const {id} = await reply.json();
  const look = async () => {
    const text = await (await fetch("/calculations/" + id)).text();
    document.getElementById("answer").textContent = text;
    if (!/SUCCESS|FAILURE/.test(text)) setTimeout(look, 300);
  };
  look();
};
</script>
"""


class Calculation(BaseModel):
    operation: str
    args: list[Any]


@web.get("/", response_class=HTMLResponse)
def page():
    return PAGE


@web.post("/calculations", status_code=202)
def start(calculation: Calculation):
    if calculation.operation not in OPERATIONS:
        raise HTTPException(422, "unknown operation")
    id = uuid()
    app.backend.client.setex(f"web:{id}", 86400, 1)
    app.send_task(f"calculator.{calculation.operation}", args=calculation.args, task_id=id).get(
        timeout=15, propagate=False
    )
    return {"id": id}


@web.get("/calculations/{id}")
def show(id: str):
    if not app.backend.client.exists(f"web:{id}"):
        raise HTTPException(404, "unknown id")
    result = app.AsyncResult(id)
    answer = {"id": id, "state": result.state}
    if result.state == "SUCCESS":
        answer["result"] = result.result
    elif result.state == "FAILURE":
        answer["error"] = describe(result.result)
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(web, host="127.0.0.1", port=parser.parse_args().port)

"""The page on Starlette; what could block is done in threads."""

import argparse
import json
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from calculator import OPERATIONS, Item, app


async def front(request):
    names = "".join(f"<option>{name}" for name in sorted(OPERATIONS))
    return HTMLResponse(
        f"<form action=/ method=get><select name=operation>{names}</select><input name=args></form>"
    )


async def post(request):
    try:
        item = Item.model_validate_json(await request.body())
    except ValueError as error:
        return JSONResponse({"detail": str(error)}, 422)
    if item.operation not in OPERATIONS:
        return JSONResponse({"detail": item.operation}, 422)
    id = uuid4().hex
    await run_in_threadpool(send, id, item)
    return JSONResponse({"id": id}, 202)


def send(id, item):
    app.backend.client.set(f"asked:{id}", "1")
    app.send_task(f"calculator.{item.operation}", item.args, task_id=id)


async def get(request):
    return await run_in_threadpool(look, request.path_params["id"])


def look(id):
    if app.backend.client.get(f"asked:{id}") is None:
        return JSONResponse({"detail": "unknown"}, 404)
    document = json.loads(
        app.backend.client.get(f"celery-task-meta-{id}") or '{"status": "PENDING"}'
    )
    told = {"id": id, "state": document["status"]}
    if told["state"] == "SUCCESS":
        told["result"] = document["result"]
    if told["state"] == "FAILURE":
        told["error"] = f"{document['result']['exc_type']}: {document['result']['exc_message'][0]}"
    return JSONResponse(told)


site = Starlette(
    routes=[
        Route("/", front),
        Route("/calculations", post, methods=["POST"]),
        Route("/calculations/{id}", get),
    ]
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(site, port=parser.parse_args().port, log_level="warning")

"""Reads a source's records as (id, value) pairs."""

import json
import pathlib
import sqlite3
import urllib.parse
import urllib.request


def read(source):
    """Return the pairs of a source."""
    reader = {"database": database, "file": file, "api": api}.get(source["type"])
    if reader is None:
        raise ValueError(f"there is no type {source['type']!r}")
    return reader(source["location"])


def database(path):
    """Return the pairs of an SQLite file."""
    if not pathlib.Path(path).is_file():
        raise OSError(f"{path} is not there")
    connection = sqlite3.connect(path)
    try:
        return list(connection.execute("SELECT id, value FROM records"))
    finally:
        connection.close()


def file(path):
    """Return the pairs of a CSV file."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").removeprefix("\ufeff").splitlines()
    return [tuple(line.split(",", 1)) for line in lines[1:]]


def api(location):
    """Return the pairs of all pages."""
    pairs, page = [], 1
    while page is not None:
        with urllib.request.urlopen(f"{location}{sign(location)}page={page}", timeout=7) as answer:
            body = json.load(answer)
        pairs += [(record.get("id"), record.get("value")) for record in body["records"]]
        page = body["next"]
    return pairs


def sign(location):
    """Return what a further argument of the query begins with."""
    return "&" if urllib.parse.urlsplit(location).query else "?"

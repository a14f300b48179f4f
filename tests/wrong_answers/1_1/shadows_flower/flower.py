"""Starts Flower from Python."""

from app import app

if __name__ == "__main__":
    app.start(argv=["flower"])

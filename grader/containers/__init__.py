"""Judges a compose file and a Dockerfile by reading them: no engine, no network, no container."""

"""Backends: base.py is the protocol, every other file one backend."""

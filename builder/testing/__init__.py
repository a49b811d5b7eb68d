"""Conformance suites for authors of backends; each raises AssertionError saying what is wrong."""

from builder.testing.executors import check_executor
from builder.testing.sources import check_source
from builder.testing.stores import check_store
from builder.testing.trackers import check_call, check_tracker

__all__ = ["check_call", "check_executor", "check_source", "check_store", "check_tracker"]

"""Which parts of an ExecuTorch program a backend took, and why it left the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lvexport.converters.contract import Delegation

_UNKNOWN = "the backend has no kernel for it"


class Reasons(logging.Handler):
    """Collects what a partitioner gives as its reasons, by the name of the node."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        node, reason = getattr(record.msg, "node", None), getattr(record.msg, "reason", None)
        if node is not None and reason:  # exir/backend/utils.py, WhyNoPartition, logs itself
            self.found.setdefault(node.name, str(reason))


@contextmanager
def reasons(logger_name: str) -> Iterator[Reasons]:
    """Listen to a partitioner's logger while a program is lowered."""
    logger, handler = logging.getLogger(logger_name), Reasons()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def report(edge: Any, heard: Reasons) -> Delegation:
    """The report on a lowered program."""
    calls = 0
    outside: dict[str, str] = {}
    for node in edge.exported_program().graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "__name__", node.target))
        if name == "executorch_call_delegate":
            calls += 1
        elif name != "getitem":
            outside.setdefault(name, heard.found.get(node.name, _UNKNOWN))
    return Delegation(calls, outside)

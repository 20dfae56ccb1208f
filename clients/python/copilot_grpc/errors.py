"""Reads the errors of calls: why a call failed, how far its turn had come, and when to try again.

    try:
        response = service.SendAndWait(request, timeout=60)
    except grpc.RpcError as error:
        failure = errors.read(error)
        if failure.reason == error_reason_pb2.ERROR_REASON_TURN_TIMEOUT:
            ...

It reads the errors of `grpc` and of `grpc.aio`. It never raises one itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from copilot_grpc.v1 import error_reason_pb2, turn_pb2

DOMAIN = "copilot-grpc"
"""The domain of the service's `google.rpc.ErrorInfo`."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    """The canonical code."""

    message: str
    """What happened and what to do, for people."""

    reason: error_reason_pb2.ErrorReason | None = None
    """Why, as the service says. None: it does not, because the error was made on the way or on this side, such as by a connection
    that failed; or the reason is newer than this package, and only `info` has it."""

    info: error_details_pb2.ErrorInfo | None = None
    """The reason by its name, and the metadata that some reasons have. None: as above."""

    turn: turn_pb2.TurnFailure | None = None
    """How far the turn had come. None: the error is not that of a turn."""

    retry_delay: float | None = None
    """The time in seconds after which to try again. None: the service does not say that this would help."""

    @property
    def delivery(self) -> turn_pb2.DeliveryState | None:
        """Whether the agent got the prompt. None: the error does not say."""
        return (self.turn.delivery or None) if self.turn else None


def read(error: grpc.RpcError) -> Failure:
    """What an error says, of a call or a stream."""
    return failure(error.code(), error.details() or "", details(error))


def of_turn(turn: turn_pb2.Turn) -> Failure:
    """What is said of a turn that has failed, as GetTurn returns it."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    code = codes.get(turn.failure.code, grpc.StatusCode.UNKNOWN)
    return failure(code, turn.failure.message, turn.failure.details)


def failure(code, message, details) -> Failure:
    """What an error with these details says."""
    found: dict[str, Any] = {}
    for detail in details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == DOMAIN:
                # A reason that this package does not know is None.
                reason = error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name.get(f"ERROR_REASON_{info.reason}")
                found |= {"info": info, "reason": reason and reason.number}
        elif detail.Is(turn_pb2.TurnFailure.DESCRIPTOR):
            found["turn"] = turn_pb2.TurnFailure.FromString(detail.value)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            found["retry_delay"] = delay.ToTimedelta().total_seconds()
    return Failure(code, message, **found)


def details(error):
    """The details of an error. There are none if it was made on this side, and a proxy may have broken them."""
    try:
        status = rpc_status.from_call(error)
    except (DecodeError, ValueError):
        return []
    return status.details if status else []

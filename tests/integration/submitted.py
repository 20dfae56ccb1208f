"""A caller that submits two turns to one server, and asks another for them when the first one is dead.

    python submitted.py FIRST OTHER

Prints a line when they are submitted, waits for one, and then prints how each stands: its id, its state, and its answer, or why it has
failed and whether the agent had got the prompt.
"""

import sys

import grpc

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, error_reason_pb2, turn_pb2


def main():
    first, other = (copilot_service_pb2_grpc.CopilotServiceStub(grpc.insecure_channel(it)) for it in sys.argv[1:])
    first.CreateSession(pb.CreateSessionRequest(session_id="s"), timeout=30)
    for request_id, text in [("delivered", "hang"), ("waiting", "later")]:
        prompt = turn_pb2.Prompt(text=text, request_id=request_id)
        first.SubmitTurn(pb.SubmitTurnRequest(session_id="s", prompt=prompt), timeout=30)
    print("submitted", flush=True)
    sys.stdin.readline()
    for request_id in ["waiting", "delivered"]:
        request = pb.GetTurnRequest(session_id="s", request_id=request_id, wait={"seconds": 25})
        print(request_id, *told(other.GetTurn(request, timeout=30).turn), flush=True)


def told(turn):
    state = turn_pb2.TurnState.Name(turn.state)
    if turn.state != turn_pb2.TURN_STATE_FAILED:
        return state, turn.result.content
    failure = turn_pb2.TurnFailure()
    next(detail for detail in turn.failure.details if detail.Is(failure.DESCRIPTOR)).Unpack(failure)
    reason = error_reason_pb2.ErrorReason.Name(turn.failure.reason)
    return state, reason, turn_pb2.DeliveryState.Name(failure.delivery)


if __name__ == "__main__":
    main()

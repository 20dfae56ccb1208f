"""Creates a session, streams an answer, and deletes the session. docs/guide/clients.md says how to run it.

    python client.py [ADDRESS] [PROMPT]
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, turn_pb2


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
    prompt = sys.argv[2] if len(sys.argv) > 2 else "hello"
    with grpc.insecure_channel(address) as channel:
        try:
            converse(copilot_service_pb2_grpc.CopilotServiceStub(channel), prompt)
        except grpc.RpcError as error:
            explain(error)
            return 1
    return 0


def converse(service, prompt):
    """In a session of its own."""
    created = service.CreateSession(pb.CreateSessionRequest(), timeout=30)
    session_id = created.session.session_id
    try:
        stream_answer(service, session_id, prompt)
    finally:
        service.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), timeout=10)


def stream_answer(service, session_id, prompt):
    """Prints the answer as it comes. The timeout is the turn's: when it passes, the agent is stopped."""
    request = pb.SendAndStreamRequest(session_id=session_id, prompt=turn_pb2.Prompt(text=prompt))
    for message in service.SendAndStream(request, timeout=5):
        match message.WhichOneof("payload"):
            case "event" if message.event.HasField("assistant_message_delta"):
                print(message.event.assistant_message_delta.text, end="", flush=True)
            case "event" if message.event.HasField("tool_execution_start"):
                print(f"[{message.event.tool_execution_start.name}]")
            case "result":
                usage = message.result.usage
                print(f"\n({usage.input_tokens} tokens in, {usage.output_tokens} out)")


def explain(error):
    """Every error says why in an ErrorInfo; that of a turn also says how far the turn had come."""
    print(f"\n{error.code().name}: {error.details()}", file=sys.stderr)
    # None: the error was made on this side, such as by a connection that failed.
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, failure = error_details_pb2.ErrorInfo(), turn_pb2.TurnFailure()
        if detail.Unpack(info):
            print(f"reason: {info.reason}", file=sys.stderr)
        elif detail.Unpack(failure):
            delivery = turn_pb2.DeliveryState.Name(failure.delivery)
            lines = failure.partial_content.splitlines()
            print(f"prompt: {delivery}, answer so far: {len(lines)} lines", file=sys.stderr)
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                print("give the call a longer timeout, or ask for less", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

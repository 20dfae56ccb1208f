"""A tool that the agent calls and this program runs, on one Converse stream. The README says how to run it.

    python tool.py [ADDRESS] [PROMPT]
"""

import datetime
import queue
import sys

import grpc

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, request_pb2, session_pb2

CLOCK = session_pb2.Tool(name="clock", description="Tells the time in a time zone.")
CLOCK.parameters.update({"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]})


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
    prompt = sys.argv[2] if len(sys.argv) > 2 else "tool: what time is it?"
    with grpc.insecure_channel(address) as channel:
        service = copilot_service_pb2_grpc.CopilotServiceStub(channel)
        created = service.CreateSession(pb.CreateSessionRequest(tools=[CLOCK]), timeout=30)
        session_id = created.session.session_id
        try:
            converse(service, session_id, prompt)
        finally:
            service.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), timeout=10)


def converse(service, session_id, prompt):
    """Sends the prompt, answers the calls of the tool, and prints the answer."""
    up = queue.SimpleQueue()
    up.put(pb.ConverseRequest(open=pb.ConverseOpen(session_id=session_id)))
    up.put(pb.ConverseRequest(prompt=pb.ConversePrompt(prompt=prompt)))
    # None ends the requests: the turns that run still finish.
    for response in service.Converse(iter(up.get, None), timeout=60):
        match response.WhichOneof("payload"):
            case "event" if response.event.HasField("tool_call_requested"):
                call = response.event.tool_call_requested
                print(f"[{call.name} {dict(call.arguments)}]")
                result = request_pb2.ToolResult(text=clock(call.arguments["zone"]))
                answer = request_pb2.RequestAnswer(tool_result=result)
                up.put(pb.ConverseRequest(answer=pb.ConverseAnswer(request_id=call.request_id, answer=answer)))
            case "event" if response.event.HasField("assistant_message_delta"):
                print(response.event.assistant_message_delta.text, end="", flush=True)
            case "result":
                print()
                up.put(None)
            case "failure":
                sys.exit(response.failure.message)


def clock(zone):
    """What the agent asked for; this one knows the time here only."""
    return f"{datetime.datetime.now(datetime.UTC):%H:%M} UTC; {zone} was asked for"


if __name__ == "__main__":
    main()

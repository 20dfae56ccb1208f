"""A tool that the agent calls and this program runs, on one Converse stream. docs/guide/clients/python.md says how to run it.

    python tool.py [ADDRESS] [PROMPT]
"""

import datetime
import json
import queue
import sys

import grpc

from copilot_grpc.v1 import ask_pb2, copilot_service_pb2_grpc, session_pb2, turn_pb2
from copilot_grpc.v1 import copilot_service_pb2 as pb

PARAMETERS = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
CLOCK = session_pb2.Tool(
    name="clock", description="Tells the time in a time zone.", parameters_json=json.dumps(PARAMETERS)
)


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
    up.put(pb.ConverseRequest(prompt=pb.ConversePrompt(prompt=turn_pb2.Prompt(text=prompt))))
    # None ends the requests: the turns that run still finish.
    for response in service.Converse(iter(up.get, None), timeout=60):
        match response.WhichOneof("payload"):
            case "event" if response.event.HasField("tool_call_asked"):
                call = response.event.tool_call_asked
                print(f"[{call.name} {call.arguments_json}]")
                result = ask_pb2.ToolResult(text=clock(json.loads(call.arguments_json)["zone"]))
                answer = ask_pb2.AskAnswer(tool_result=result)
                up.put(pb.ConverseRequest(answer=pb.ConverseAnswer(ask_id=call.ask_id, answer=answer)))
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

"""Creates a session, streams an answer, answers what the agent asks, and deletes the session.

    python chat.py [ADDRESS [PROMPT [SECONDS]]]

docs/guide/clients/python.md says how to run it. With COPILOT_SESSION=ID it uses that session, and does not delete it.
"""

import contextlib
import datetime
import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import copilot_grpc
from copilot_grpc import errors
from copilot_grpc.v1 import ask_pb2, copilot_service_pb2_grpc, error_reason_pb2, session_pb2, turn_pb2
from copilot_grpc.v1 import copilot_service_pb2 as pb

OPTIONS = [
    ("grpc.service_config", copilot_grpc.SERVICE_CONFIG),
    # A server that hangs is noticed within 40 seconds, however long the agent is silent.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]
HEALTH = health_pb2.HealthCheckRequest(service="copilot_grpc.v1.CopilotService")
SCHEMA = '{"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}'
CLOCK = session_pb2.Tool(name="clock", description="Tells the time in a time zone.", parameters_json=SCHEMA)
POLICY = session_pb2.PermissionPolicy(
    rules=[session_pb2.PermissionRule(kind="shell", effect=session_pb2.PERMISSION_EFFECT_ASK)]
)


def main(address="127.0.0.1:50051", prompt="hello", seconds="60"):
    try:
        if not is_serving(address):
            return "NOT_SERVING: the service is not ready"
        print("health: SERVING")
        with grpc.insecure_channel(address, OPTIONS) as channel:
            service = copilot_service_pb2_grpc.CopilotServiceStub(channel)
            with session(service) as session_id:
                stream_answer(service, session_id, prompt, float(seconds))
    except grpc.RpcError as error:
        return explain(errors.read(error))
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 130


def is_serving(address):
    """On a channel without the service configuration, which would have no connection for calls while the service is not ready."""
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(HEALTH, timeout=5)
    return health.status == health_pb2.HealthCheckResponse.SERVING


@contextlib.contextmanager
def session(service):
    """A session that is deleted in the end."""
    if session_id := os.environ.get("COPILOT_SESSION"):
        print(f"session: {session_id}")
        yield session_id
        return
    request = pb.CreateSessionRequest(
        tools=[CLOCK], available_tools=["bash"], permission_policy=POLICY, labels={"from": "python"}
    )
    session_id = service.CreateSession(request, timeout=30).session.session_id
    print(f"session: {session_id}")
    try:
        yield session_id
    except BaseException:
        # This error is the one to tell, and not that of the deletion.
        with contextlib.suppress(grpc.RpcError):
            delete(service, session_id)
        raise
    delete(service, session_id)


def delete(service, session_id):
    service.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), timeout=10)
    print("deleted")


def stream_answer(service, session_id, prompt, seconds):
    """Prints the answer as it comes. The timeout is the turn's: when it passes, the agent is stopped."""
    request = pb.SendAndStreamRequest(session_id=session_id, prompt=turn_pb2.Prompt(text=prompt))
    stream = service.SendAndStream(request, timeout=seconds)
    try:
        for message in stream:
            if answer := show(message.event):
                respond(service, session_id, *answer)
    finally:
        print()
        # Stops the agent, if this was left early.
        stream.cancel()
    # The last message of a turn that succeeds.
    usage = message.result.usage
    print(f"({usage.input_tokens} tokens in, {usage.output_tokens} out)")


def show(event):
    """Prints an event. Returns the id of an ask and the answer to it, if there is one to give."""
    match event.WhichOneof("payload"):
        case "assistant_message_delta":
            print(event.assistant_message_delta.text, end="", flush=True)
        case "tool_call_asked" if event.tool_call_asked.name == "clock":
            print(f"[tool clock {event.tool_call_asked.arguments_json}]")
            time = f"{datetime.datetime.now(datetime.timezone.utc):%H:%M} in UTC"
            return event.tool_call_asked.ask_id, ask_pb2.AskAnswer(tool_result=ask_pb2.ToolResult(text=time))
        case "permission_asked" if event.permission_asked.awaits_answer:
            asked = event.permission_asked
            allowed = asked.subject == "echo hello"
            # Whoever else watches the session may answer the others. If nobody does, the ask times out.
            print(f"[permission {asked.kind}: {asked.subject}] {'allowed' if allowed else 'left to others'}")
            answer = ask_pb2.PermissionAnswer(decision=ask_pb2.PERMISSION_DECISION_ALLOW)
            return (asked.ask_id, ask_pb2.AskAnswer(permission=answer)) if allowed else None


def respond(service, session_id, ask_id, answer):
    try:
        service.Respond(pb.RespondRequest(session_id=session_id, ask_id=ask_id, answer=answer), timeout=10)
    except grpc.RpcError as error:
        # Somebody else was faster, or the turn has ended: the stream says how.
        if errors.read(error).reason != error_reason_pb2.ERROR_REASON_ASK_SETTLED:
            raise


def explain(failure):
    """Prints what is known of a failure."""
    turn = failure.turn or turn_pb2.TurnFailure()
    is_late = failure.reason == error_reason_pb2.ERROR_REASON_TURN_TIMEOUT
    known = {
        failure.code.name: failure.message,
        "reason": failure.info and failure.info.reason,
        "delivery": failure.delivery and turn_pb2.DeliveryState.Name(failure.delivery).removeprefix("DELIVERY_STATE_"),
        "answer so far": turn.partial_content and f"{len(turn.partial_content)} characters",
        "waiting for": " ".join(turn.open_asks),
        "retry after": failure.retry_delay and f"{failure.retry_delay:g} s",
        "hint": is_late and "give it more seconds, or ask for less",
    }
    print(*(f"{name}: {text}" for name, text in known.items() if text), sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    # Each line is seen when it is printed, also where it goes into a pipe.
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main(*sys.argv[1:]))

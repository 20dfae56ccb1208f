"""What chat.py does, with asyncio.

    python chat_async.py [ADDRESS [PROMPT [SECONDS]]]
"""

import asyncio
import contextlib
import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chat import CLOCK, HEALTH, OPTIONS, POLICY, explain, show
from copilot_grpc import errors
from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, error_reason_pb2, turn_pb2


async def main(address="127.0.0.1:50051", prompt="hello", seconds="60"):
    try:
        if not await is_serving(address):
            return "NOT_SERVING: the service is not ready"
        print("health: SERVING")
        async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
            service = copilot_service_pb2_grpc.CopilotServiceStub(channel)
            async with session(service) as session_id:
                await stream_answer(service, session_id, prompt, float(seconds))
    except grpc.RpcError as error:
        return explain(errors.read(error))


async def is_serving(address):
    """On a channel without the service configuration, which would have no connection for calls while the service is not ready."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(HEALTH, timeout=5)
    return health.status == health_pb2.HealthCheckResponse.SERVING


@contextlib.asynccontextmanager
async def session(service):
    """A session that is deleted in the end, also when this task is cancelled."""
    if session_id := os.environ.get("COPILOT_SESSION"):
        print(f"session: {session_id}")
        yield session_id
        return
    request = pb.CreateSessionRequest(
        tools=[CLOCK], available_tools=["bash"], permission_policy=POLICY, labels={"from": "python-asyncio"}
    )
    session_id = (await service.CreateSession(request, timeout=30)).session.session_id
    print(f"session: {session_id}")
    try:
        yield session_id
    except BaseException:
        # This error is the one to tell, and not that of the deletion.
        with contextlib.suppress(grpc.RpcError):
            await delete(service, session_id)
        raise
    await delete(service, session_id)


async def delete(service, session_id):
    await service.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), timeout=10)
    print("deleted")


async def stream_answer(service, session_id, prompt, seconds):
    """Prints the answer as it comes. The timeout is the turn's: when it passes, the agent is stopped."""
    request = pb.SendAndStreamRequest(session_id=session_id, prompt=turn_pb2.Prompt(text=prompt))
    stream = service.SendAndStream(request, timeout=seconds)
    try:
        async for message in stream:
            if answer := show(message.event):
                await respond(service, session_id, *answer)
    finally:
        print()
        # Stops the agent, if this was left early.
        stream.cancel()
    # The last message of a turn that succeeds.
    usage = message.result.usage
    print(f"({usage.input_tokens} tokens in, {usage.output_tokens} out)")


async def respond(service, session_id, ask_id, answer):
    try:
        await service.Respond(pb.RespondRequest(session_id=session_id, ask_id=ask_id, answer=answer), timeout=10)
    except grpc.RpcError as error:
        # Somebody else was faster, or the turn has ended: the stream says how.
        if errors.read(error).reason != error_reason_pb2.ERROR_REASON_ASK_SETTLED:
            raise


if __name__ == "__main__":
    # Each line is seen when it is printed, also where it goes into a pipe.
    sys.stdout.reconfigure(line_buffering=True)
    try:
        sys.exit(asyncio.run(main(*sys.argv[1:])))
    except KeyboardInterrupt:
        # Ctrl-C has cancelled `main`, and that has deleted its session.
        print("cancelled", file=sys.stderr)
        sys.exit(130)

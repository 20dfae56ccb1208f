"""Callers of several servers, which are restarted meanwhile: none of their calls may fail, and no turn may lose a word.

    python rolling.py SERVICE_CONFIG ADDRESS...

They call until the standard input ends; then it prints how many turns there were. At the first failure it ends with 1.
"""

import os
import pathlib
import sys
import threading
import time
import traceback

import grpc

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc

CALLERS = 6
WORDS = 25


def main():
    config, *addresses = sys.argv[1:]
    options = [
        ("grpc.service_config", pathlib.Path(config).read_text()),
        # Else it is the list of addresses, which no server takes; a DNS name needs no such thing.
        ("grpc.default_authority", "localhost"),
        # Else a server that starts slowly is not tried again for up to two minutes.
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    ended = threading.Event()
    with grpc.insecure_channel(f"ipv4:{','.join(addresses)}", options) as channel:
        service = copilot_service_pb2_grpc.CopilotServiceStub(channel)
        turns = [0] * CALLERS
        callers = [threading.Thread(target=call, args=(service, n, turns, ended)) for n in range(CALLERS)]
        for caller in callers:
            caller.start()
        sys.stdin.read()
        ended.set()
        for caller in callers:
            caller.join()
    print(*turns)


def call(service, number, turns, ended):
    """What one caller does: one turn after the other in a session, as a stream and as a call."""
    try:
        session = create(service, number)
        while not ended.is_set():
            marker = f"caller{number}turn{turns[number]}"
            send = stream if turns[number] % 2 else wait
            text = send(service, session, f"{marker} {WORDS}")
            assert text == "".join(f"{marker}.{n} " for n in range(WORDS)), text
            # Two small calls for each turn: with one, calls that go round would all have the turns on the same server.
            service.GetSession(pb.GetSessionRequest(session_id=session), timeout=30)
            service.GetServerInfo(pb.GetServerInfoRequest(), timeout=30)
            turns[number] += 1
        service.DeleteSession(pb.DeleteSessionRequest(session_id=session), timeout=30)
    except BaseException:
        print(f"{time.strftime('%T')} caller {number}, turn {turns[number]}", file=sys.stderr)
        traceback.print_exc()
        # At once, whatever the others do.
        os._exit(1)


def create(service, number):
    request = pb.CreateSessionRequest(session_id=f"caller{number}", request_id=f"caller{number}")
    return service.CreateSession(request, timeout=30).session.session_id


def wait(service, session, prompt):
    request = pb.SendAndWaitRequest(session_id=session, prompt={"text": prompt})
    return service.SendAndWait(request, timeout=30).result.content


def stream(service, session, prompt):
    request = pb.SendAndStreamRequest(session_id=session, prompt={"text": prompt})
    text, content = "", None
    for message in service.SendAndStream(request, timeout=30):
        if message.HasField("result"):
            content = message.result.content
        elif message.event.HasField("assistant_message_delta"):
            text += message.event.assistant_message_delta.text
    assert text == content, (text, content)
    return text


if __name__ == "__main__":
    main()

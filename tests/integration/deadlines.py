"""A caller with deadlines, on gRPC's C core, which rounds them up. Prints one line for each call: what it was, its deadline in
seconds, and what came: code, reason, and `TurnFailure` if there was one.

    python deadlines.py turns ADDRESS DEADLINE...     turns that do not end, 5 for each deadline, on a fresh connection and after a
                                                      longer call
    python deadlines.py stuck ADDRESS DEADLINE TIMES  every method that needs a Copilot CLI which does not answer
"""

import itertools
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, session_pb2, turn_pb2

# A thread that is late by this much shows a machine on which no answer can be in time for a deadline of a fraction of a second.
LATE = 0.01

# How long before a deadline it counts that threads are late, in seconds.
NEAR = 0.5


def main():
    kind, address, *rest = sys.argv[1:]
    if kind == "turns":
        turns(address, [float(deadline) for deadline in rest])
    else:
        stuck(address, float(rest[0]), int(rest[1]))


class Pulse:
    """How late threads are on this machine."""

    def __init__(self):
        self.beats = []
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self):
        last = time.monotonic()
        while True:
            time.sleep(0.005)
            now = time.monotonic()
            if now - last > 0.005 + LATE:
                self.beats.append((last, now))
            last = now

    def was_late(self, start):
        time.sleep(0.02)
        return any(end > start for _, end in self.beats)


def connect(address):
    # Else the channels would share one connection, and what it remembers.
    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
    grpc.channel_ready_future(channel).result(timeout=60)
    return copilot_service_pb2_grpc.CopilotServiceStub(channel)


def came_of(call):
    """What comes of a call."""
    try:
        answer = call()
        # A stream.
        if hasattr(answer, "__next__"):
            for _ in answer:
                pass
        return "OK - -"
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        reason, failure = "-", "-"
        for detail in status.details if status else []:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason = info.reason
            if detail.Is(turn_pb2.TurnFailure.DESCRIPTOR):
                failure = "TurnFailure"
        return f"{error.code().name} {reason} {failure}"


def waited():
    """For how long somebody on this machine has waited for a processor since it was started, in seconds; 0 if it does not say."""
    try:
        with open("/proc/pressure/cpu") as pressure:
            return int(pressure.readline().rsplit("=", 1)[1]) / 1e6
    except OSError:
        return 0


def timely(pulse, deadline, call):
    """The same, on a machine that is not too busy for it when the deadline comes."""
    while True:
        start, waited_before = time.monotonic(), waited()
        came = came_of(call)
        overloaded = waited() - waited_before > (time.monotonic() - start) / 2
        late = pulse.was_late(start + max(0, deadline - NEAR))
        if came.split()[1] != "-" or not (overloaded or late):
            return came


OUTPUT = threading.Lock()


def tell(*what):
    with OUTPUT:
        print(*what, flush=True)


def turns(address, deadlines):
    pulse = Pulse()
    short = [deadline for deadline in deadlines if deadline < 1]
    long = [deadline for deadline in deadlines if deadline >= 1]
    # The short ones by themselves, so that the others are no burden.
    for deadline in short:
        run_turns(pulse, address, [deadline], one_by_one=True)
    run_turns(pulse, address, long)


def run_turns(pulse, address, deadlines, one_by_one=False):
    sessions = []
    for deadline, after, number in itertools.product(deadlines, ("fresh", "after"), range(5)):
        service = connect(address)
        session = f"{after}-{number}-{deadline}".replace(".", "_")
        service.CreateSession(pb.CreateSessionRequest(session_id=session), timeout=60)
        sessions.append((deadline, after, number, session))
    threads = []
    for deadline, after, number, session in sessions:
        args = (pulse, address, deadline, after, number, session)
        thread = threading.Thread(target=turn, args=args)
        thread.start()
        threads.append(thread)
        if one_by_one:
            thread.join()
    for thread in threads:
        thread.join()


def turn(pulse, address, deadline, after, number, session):
    service = connect(address)
    if after == "after":
        # Shorter by less than 3 %: the C core then repeats the header of this one.
        service.GetServerInfo(pb.GetServerInfoRequest(), timeout=deadline * (1.02 + number * 0.002))
    prompt = {"session_id": session, "prompt": {"text": "hang"}}
    if number % 2:
        call = lambda: service.SendAndStream(pb.SendAndStreamRequest(**prompt), timeout=deadline)
    else:
        call = lambda: service.SendAndWait(pb.SendAndWaitRequest(**prompt), timeout=deadline)
    tell(f"turn-{after}", deadline, timely(pulse, deadline, call))


def stuck(address, deadline, times):
    """The session `s` was used by this server, `stored` only by an earlier one; neither is loaded."""
    pulse = Pulse()
    service = connect(address)

    def converse(**messages):
        # The caller's side stays open.
        requests = [pb.ConverseRequest(**{name: message}) for name, message in messages.items()]
        ended = threading.Event()
        call = service.Converse(itertools.chain(requests, iter(ended.wait, True)), timeout=deadline)
        call.add_callback(ended.set)
        return call

    known, stored = {"session_id": "s"}, {"session_id": "stored"}
    model = {"session": session_pb2.Session(session_id="s", model="m"), "update_mask": {"paths": ["model"]}}
    prompt = {"prompt": {"text": "p"}}
    calls = {
        "CreateSession": lambda: service.CreateSession(pb.CreateSessionRequest(), timeout=deadline),
        "ResumeSession": lambda: service.ResumeSession(pb.ResumeSessionRequest(**stored), timeout=deadline),
        "GetSession": lambda: service.GetSession(pb.GetSessionRequest(**stored), timeout=deadline),
        "ListSessions": lambda: service.ListSessions(pb.ListSessionsRequest(), timeout=deadline),
        "UpdateSession": lambda: service.UpdateSession(pb.UpdateSessionRequest(**model), timeout=deadline),
        "CloseSession": lambda: service.CloseSession(pb.CloseSessionRequest(**stored), timeout=deadline),
        "DeleteSession": lambda: service.DeleteSession(pb.DeleteSessionRequest(**stored), timeout=deadline),
        "ForkSession": lambda: service.ForkSession(pb.ForkSessionRequest(**known), timeout=deadline),
        "CompactSession": lambda: service.CompactSession(pb.CompactSessionRequest(**known), timeout=deadline),
        "RewindSession": lambda: service.RewindSession(
            pb.RewindSessionRequest(**known, event_id="e"), timeout=deadline
        ),
        "ListRewindPoints": lambda: service.ListRewindPoints(
            pb.ListRewindPointsRequest(**known), timeout=deadline
        ),
        "SendAndWait": lambda: service.SendAndWait(
            pb.SendAndWaitRequest(**stored, **prompt), timeout=deadline
        ),
        "SendAndStream": lambda: service.SendAndStream(
            pb.SendAndStreamRequest(**known, **prompt), timeout=deadline
        ),
        "Converse": lambda: converse(open=pb.ConverseOpen(**stored)),
        "Respond": lambda: service.Respond(
            pb.RespondRequest(**stored, ask_id="r", answer={"permission": {"decision": 1}}),
            timeout=deadline,
        ),
        "AbortTurn": lambda: service.AbortTurn(pb.AbortTurnRequest(**stored), timeout=deadline),
        "ListEvents": lambda: service.ListEvents(pb.ListEventsRequest(**known), timeout=deadline),
        "WatchSession": lambda: service.WatchSession(pb.WatchSessionRequest(**known), timeout=deadline),
        "GetUsage": lambda: service.GetUsage(pb.GetUsageRequest(**known), timeout=deadline),
        "ListModels": lambda: service.ListModels(pb.ListModelsRequest(), timeout=deadline),
    }
    for name, call in calls.items():
        for _ in range(times):
            tell(name, deadline, timely(pulse, deadline, call))


if __name__ == "__main__":
    main()

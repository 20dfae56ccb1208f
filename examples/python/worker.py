"""Works off jobs, several at once, each in a session of its own.

    python worker.py [--address ADDRESS] [--jobs 4] [--timeout 600] <jobs.jsonl >results.jsonl

A job is a line {"id": "1", "prompt": "..."} of standard input. Its result is a line of standard output, when it is there:
{"id": "1", "text": "..."} or {"id": "1", "error": {"code": "...", "reason": "...", "delivery": "..."}}. The exit status is 1 if a
job failed. SIGTERM has the worker take no more jobs and finish those that run; Ctrl-C stops those, too.

A queue that delivers a job again does not have it done again, also by another worker: the session's id comes from the job's, and for
a day the service knows the turn by its `request_id`, whichever of its servers have died meanwhile. So sessions are left when their
jobs are done. `cleanup.py --label from=worker` deletes them later.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import random
import signal
import sys
import threading
import time

import grpc

import copilot_grpc
from copilot_grpc import errors
from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, turn_pb2

OPTIONS = [
    ("grpc.service_config", copilot_grpc.SERVICE_CONFIG),
    # A server that hangs is noticed within 40 seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Answers may be longer than the library's 4 MiB.
    ("grpc.max_receive_message_length", 64 << 20),
]
# How long the service is asked to wait for the end of a turn, in seconds.
WAIT = 20
ABORT_TIMEOUT = 5
MAX_DELAY = 30


async def main():
    parser = argparse.ArgumentParser(description="Works off jobs from standard input.")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--jobs", type=int, default=4, help="how many run at once")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a job, its repetitions included")
    args = parser.parse_args()
    loop = asyncio.get_running_loop()
    lines = asyncio.Queue(1)
    threading.Thread(target=read, args=[lines, loop], daemon=True).start()
    async with grpc.aio.insecure_channel(args.address, OPTIONS) as channel:
        worker = Worker(copilot_service_pb2_grpc.CopilotServiceStub(channel), args.jobs, args.timeout)
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(worker.take(lines, group))
            loop.add_signal_handler(signal.SIGTERM, taking.cancel)
    return 1 if worker.has_failed else 0


class Worker:
    def __init__(self, service, jobs, timeout):
        self.service = service
        self.timeout = timeout
        self.slots = asyncio.Semaphore(jobs)
        self.has_failed = False

    async def take(self, lines, group):
        """Takes a job whenever there is room for one, until there are no more. Cancelling it leaves those that run alone."""
        while True:
            await self.slots.acquire()
            if (line := await lines.get()) is None:
                return
            group.create_task(self.work(line)).add_done_callback(lambda _: self.slots.release())

    async def work(self, line):
        """Does a job and writes its result."""
        job = {}
        try:
            job = json.loads(line)
            result = {"text": await self.answer(str(job["id"]), str(job["prompt"]))}
        except grpc.RpcError as error:
            result = {"error": describe(errors.read(error))}
        except Failed as failed:
            result = {"error": describe(failed.failure)}
        except (KeyError, TypeError, ValueError):
            print(f"not a job: {line[:200]}", file=sys.stderr)
            result = {"error": {"code": "INVALID_ARGUMENT", "reason": None, "delivery": None}}
        self.has_failed |= "error" in result
        job_id = job.get("id") if isinstance(job, dict) else None
        print(json.dumps({"id": job_id} | result), flush=True)

    async def answer(self, job_id, prompt):
        """The agent's answer, in a session of its own."""
        deadline = time.monotonic() + self.timeout
        session_id = "job-" + hashlib.sha256(job_id.encode()).hexdigest()[:32]
        for tries in itertools.count():
            # A turn that has failed has failed for good: the next one is another request.
            request_id = job_id if tries == 0 else f"{job_id} again {tries}"
            asked = turn_pb2.Prompt(text=prompt, request_id=request_id)
            turn = await self.turn(session_id, {"from": "worker", "job": job_id}, asked, deadline)
            if turn.state == turn_pb2.TURN_STATE_SUCCEEDED:
                return turn.result.content
            failure = errors.of_turn(turn)
            if not may_be_repeated(failure):
                raise Failed(failure)
            await self.pause(request_id, failure, tries, deadline)

    async def turn(self, session_id, labels, asked, deadline):
        """Has a turn run, and waits for its end. If that does not come in time, the turn is stopped."""
        create = pb.CreateSessionRequest(session_id=session_id, resume_if_exists=True, labels=labels)
        submit = pb.SubmitTurnRequest(session_id=session_id, prompt=asked)
        get = pb.GetTurnRequest(session_id=session_id, request_id=asked.request_id, wait={"seconds": WAIT})
        try:
            await self.repeat(self.service.CreateSession, create, deadline)
            turn = (await self.repeat(self.service.SubmitTurn, submit, deadline)).turn
            while turn.state not in (turn_pb2.TURN_STATE_SUCCEEDED, turn_pb2.TURN_STATE_FAILED):
                turn = (await self.repeat(self.service.GetTurn, get, deadline)).turn
            return turn
        except (grpc.RpcError, asyncio.CancelledError):
            abort = pb.AbortTurnRequest(session_id=session_id, request_id=asked.request_id)
            with contextlib.suppress(grpc.RpcError):
                await self.service.AbortTurn(abort, timeout=ABORT_TIMEOUT)
            raise

    async def repeat(self, call, request, deadline):
        """Calls until there is an answer: by its request id nothing is done twice."""
        for tries in itertools.count():
            try:
                return await call(request, timeout=max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                failure = errors.read(error)
                if failure.code != grpc.StatusCode.UNAVAILABLE and failure.retry_delay is None:
                    raise
                await self.pause(type(request).__name__, failure, tries, deadline)

    async def pause(self, what, failure, tries, deadline):
        """Waits before the next try. If there is no time for one, the failure is the job's."""
        print(f"{what}: {failure.code.name}: {failure.message}", file=sys.stderr)
        delay = failure.retry_delay or random.uniform(0.5, 1) * min(2**tries, MAX_DELAY)
        if time.monotonic() + delay >= deadline:
            raise Failed(failure)
        await asyncio.sleep(delay)


class Failed(Exception):
    """A job whose turn has failed."""

    def __init__(self, failure):
        super().__init__(failure.message)
        self.failure = failure


def may_be_repeated(failure):
    """A turn that was delivered and failed may have been done in part, and would only fail again."""
    is_passing = failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return is_passing and failure.delivery == turn_pb2.DELIVERY_STATE_NOT_DELIVERED


def describe(failure):
    delivery = failure.delivery and turn_pb2.DeliveryState.Name(failure.delivery).removeprefix("DELIVERY_STATE_")
    return {"code": failure.code.name, "reason": failure.info and failure.info.reason, "delivery": delivery}


def read(lines, loop):
    """Passes on the lines of standard input, each when there is room for it, and then None. In a thread, because asyncio cannot
    wait for a file; and not by `sys.stdin`, which a thread that waits for it would keep the program from closing at its end."""
    # The loop has ended: nobody wants lines any more.
    with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError), open(0, "rb", closefd=False) as file:
        for line in itertools.chain(file, [None]):
            asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)

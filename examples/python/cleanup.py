"""Deletes sessions in which nothing has happened for a while, with their histories. Those with a turn that runs are left alone.

    python cleanup.py [--address ADDRESS] [--older-than 24h] [--owner OWNER] [--label NAME=VALUE]... [--dry-run]

It prints each session and a summary, and can be run again at any time. The exit status is 1 if some could not be deleted.
"""

import argparse
import datetime
import re
import sys

import grpc

import copilot_grpc
from copilot_grpc import errors
from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc, session_pb2

OPTIONS = [("grpc.service_config", copilot_grpc.SERVICE_CONFIG)]
STATES = [session_pb2.SESSION_STATE_IDLE, session_pb2.SESSION_STATE_UNLOADED]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main():
    parser = argparse.ArgumentParser(description="Deletes sessions in which nothing has happened for a while.")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--older-than", type=age, default="24h", help="such as 90s, 30m, 24h or 7d (default: 24h)")
    parser.add_argument("--owner", default="", help="only sessions of this owner")
    parser.add_argument("--label", type=label, action="append", default=[], help="only sessions with NAME=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    args = parser.parse_args()
    request = pb.ListSessionsRequest(page_size=1000, states=STATES, owner=args.owner, labels=dict(args.label))
    request.updated_before.FromDatetime(datetime.datetime.now(datetime.timezone.utc) - args.older_than)
    try:
        with grpc.insecure_channel(args.address, OPTIONS) as channel:
            return clean_up(copilot_service_pb2_grpc.CopilotServiceStub(channel), request, args.dry_run)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    except KeyboardInterrupt:
        return 130


def clean_up(service, request, is_dry):
    deleted = failed = 0
    for page in pages(service, request):
        for session in page.sessions:
            name = f"{session.session_id} (last used {session.update_time.ToJsonString()})"
            try:
                if not is_dry:
                    # Somebody else may have deleted it by now.
                    delete = pb.DeleteSessionRequest(session_id=session.session_id, allow_missing=True)
                    service.DeleteSession(delete, timeout=30)
                deleted += 1
                print(f"{'would delete' if is_dry else 'deleted'} {name}", flush=True)
            except grpc.RpcError as error:
                failed += 1
                failure = errors.read(error)
                print(f"not deleted {name}: {failure.code.name}: {failure.message}", file=sys.stderr)
    print(f"{deleted} {'would be deleted' if is_dry else 'deleted'}, {failed} failed")
    return 1 if failed else 0


def pages(service, request):
    """The pages of a list. It stays right while its sessions are deleted."""
    while True:
        page = service.ListSessions(request, timeout=30)
        yield page
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def age(text):
    if not (parts := re.fullmatch(r"(\d+)([smhd])", text)):
        raise argparse.ArgumentTypeError(f"not a number with s, m, h or d: {text}")
    return datetime.timedelta(seconds=int(parts[1]) * SECONDS[parts[2]])


def label(text):
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"not NAME=VALUE: {text}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())

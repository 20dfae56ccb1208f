"""One SendAndWait with the published service configuration: prints its answer, or its code.

    python retrying.py CONFIG ADDRESS SESSION PROMPT
"""

import pathlib
import sys

import grpc

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc


def main():
    config, address, session, text = sys.argv[1:]
    options = [
        ("grpc.service_config", pathlib.Path(config).read_text()),
        # Connections that were cut are made anew at once, so that the test need not wait.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
    ]
    with grpc.insecure_channel(address, options) as channel:
        service = copilot_service_pb2_grpc.CopilotServiceStub(channel)
        try:
            request = pb.SendAndWaitRequest(session_id=session, prompt={"text": text})
            print(service.SendAndWait(request, timeout=100).result.content)
        except grpc.RpcError as error:
            print(error.code().name)


if __name__ == "__main__":
    main()

"""One call with the published service configuration: prints what came of it, or its code.

    python retrying.py CONFIG ADDRESS create SESSION
    python retrying.py CONFIG ADDRESS send SESSION PROMPT
    python retrying.py CONFIG ADDRESS send-compressed SESSION PROMPT

With a folder in TLS_FOLDER, the connection is encrypted, by ca.pem, own-cert.pem and own-key.pem there.
"""

import os
import pathlib
import sys

import grpc

from copilot_grpc.v1 import copilot_service_pb2 as pb
from copilot_grpc.v1 import copilot_service_pb2_grpc


def main():
    config, address, what, session, *rest = sys.argv[1:]
    options = [
        ("grpc.service_config", pathlib.Path(config).read_text()),
        # Connections that were cut are made anew at once, so that the test need not wait.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
    ]
    with connect(address, options) as channel:
        service = copilot_service_pb2_grpc.CopilotServiceStub(channel)
        try:
            print(call(service, what, session, *rest))
        except grpc.RpcError as error:
            print(error.code().name)
            print(error.details(), file=sys.stderr)


def connect(address, options):
    if "TLS_FOLDER" not in os.environ:
        return grpc.insecure_channel(address, options)
    folder = pathlib.Path(os.environ["TLS_FOLDER"])
    ca, cert, key = ((folder / name).read_bytes() for name in ("ca.pem", "own-cert.pem", "own-key.pem"))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)


def call(service, what, session, text=None):
    if what == "create":
        request = pb.CreateSessionRequest(session_id=session)
        return service.CreateSession(request, timeout=100).session.session_id
    request = pb.SendAndWaitRequest(session_id=session, prompt={"text": text})
    compression = grpc.Compression.Gzip if what == "send-compressed" else None
    return service.SendAndWait(request, timeout=100, compression=compression).result.content


if __name__ == "__main__":
    main()

"""Client of copilot-grpc, which serves the GitHub Copilot CLI over gRPC.

`copilot_grpc.v1` is the generated code of the contract, `copilot_grpc.errors` reads the errors of calls.
"""

import importlib.resources

SERVICE_CONFIG: str = (importlib.resources.files(__name__) / "service-config.json").read_text("utf-8")
"""The gRPC service configuration for clients: the value of the channel option `grpc.service_config`. With it, a channel waits for
a healthy server, spreads calls over all of them, and repeats what may be repeated. Calls that wait need a timeout."""

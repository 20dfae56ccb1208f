"""Makes what the package does not keep in Git: the code of the proto files, and a copy of the service configuration.

Both come from the repository around this folder; a source distribution brings them along.
"""

import importlib.resources
import pathlib
import shutil

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = pathlib.Path(__file__).parent
# Of a source distribution, or of the repository.
PROTO = next(path for path in (HERE / "proto", HERE / "../../proto") if path.is_dir()).resolve()
CONFIGS = (HERE / "service-config.json", HERE / "../../examples/service-config.json")
CONFIG = next(path for path in CONFIGS if path.is_file()).resolve()
SERVICE = "copilot_grpc/v1/copilot_service.proto"


class Generate(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name == "sdist":
            build_data["force_include"] |= {str(PROTO / "copilot_grpc"): "proto/copilot_grpc", str(CONFIG): CONFIG.name}
            return
        made = HERE / "copilot_grpc/v1"
        shutil.rmtree(made, ignore_errors=True)
        files = [str(file.relative_to(PROTO)) for file in sorted(PROTO.glob("copilot_grpc/v1/*.proto"))]
        generate(f"--python_out={HERE}", f"--pyi_out={HERE}", *files)
        generate(f"--grpc_python_out={HERE}", SERVICE)
        (made / "__init__.py").touch()
        shutil.copyfile(CONFIG, HERE / "copilot_grpc/service-config.json")


def generate(*arguments):
    # Not at the top: a source distribution is also made where only hatchling is.
    from grpc_tools import protoc

    well_known = importlib.resources.files("grpc_tools") / "_proto"
    if protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", *arguments]) != 0:
        raise RuntimeError("protoc failed")

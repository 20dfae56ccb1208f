// Copies what the package shares with the repository: the proto files, and the shipped service configuration as a module.
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const repository = new URL("../../", import.meta.url);
const here = new URL("./", import.meta.url);

rmSync(new URL("proto/copilot_grpc", here), { recursive: true, force: true });
cpSync(new URL("proto/copilot_grpc", repository), new URL("proto/copilot_grpc", here), { recursive: true });

const json = JSON.stringify(JSON.parse(readFileSync(new URL("examples/service-config.json", repository), "utf8")));
const doc = "/** The shipped service configuration, as JSON: for the channel option `grpc.service_config` of grpc-js. */";
writeFileSync(new URL("src/service-config.ts", here), `${doc}\nexport const serviceConfig = ${JSON.stringify(json)};\n`);

/**
 * A chat over grpc-js: creates a session, streams an answer, answers what the agent asks, and deletes the session.
 *
 *     node dist/grpc-js.js [ADDRESS [PROMPT [SECONDS]]]
 */
import { fileURLToPath } from "node:url";
import { credentials, InterceptingCall, loadPackageDefinition } from "@grpc/grpc-js";
import type { ClientReadableStream, InterceptorOptions, NextCall, requestCallback } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { Code, DeliveryState, ErrorReason, readFailure, serviceConfig } from "copilot-grpc";
import type { CreateSessionResponse__Output } from "./gen/copilot_grpc/v1/CreateSessionResponse.js";
import type { RespondRequest } from "./gen/copilot_grpc/v1/RespondRequest.js";
import type { SendAndStreamResponse__Output } from "./gen/copilot_grpc/v1/SendAndStreamResponse.js";
import type { SessionEvent__Output } from "./gen/copilot_grpc/v1/SessionEvent.js";
import type { ProtoGrpcType as CopilotTypes } from "./gen/copilot_service.js";
import type { HealthCheckResponse__Output } from "./gen/grpc/health/v1/HealthCheckResponse.js";
import type { ProtoGrpcType as HealthTypes } from "./gen/health.js";

const [address = "127.0.0.1:50051", prompt = "hello", seconds = "60"] = process.argv.slice(2);
const files = ["copilot_grpc/v1/copilot_service.proto", "grpc/health/v1/health.proto"];
const includeDirs = [fileURLToPath(new URL("../proto", import.meta.resolve("copilot-grpc")))];
// The same options as of proto-loader-gen-types in package.json. Names are in camelCase, as in the other generated code.
const definition = loadSync(files, { includeDirs, longs: String, enums: String, defaults: true, oneofs: true });
const types = loadPackageDefinition(definition) as unknown as CopilotTypes & HealthTypes;
// Pings notice a connection that has died in silence, which a turn of many minutes would otherwise wait on.
const keepalive = { "grpc.keepalive_time_ms": 30_000, "grpc.keepalive_timeout_ms": 10_000 };
const options = { "grpc.service_config": serviceConfig, ...keepalive };
const interceptors = [waitForReady];
const copilot = new types.copilot_grpc.v1.CopilotService(address, credentials.createInsecure(), { ...options, interceptors });
const health = new types.grpc.health.v1.Health(address, credentials.createInsecure(), options);
let stream: ClientReadableStream<SendAndStreamResponse__Output> | undefined;
let interrupted = false;
let midLine = false;

async function main() {
  process.once("SIGINT", () => {
    interrupted = true;
    stream?.cancel();
  });
  const service = "copilot_grpc.v1.CopilotService";
  const { status } = await promise<HealthCheckResponse__Output>((done) => health.check({ service }, within(5), done));
  if (status !== "SERVING") throw new Error("NOT_SERVING: the service is not ready");
  console.log("health: SERVING");

  const given = process.env["COPILOT_SESSION"];
  const sessionId = given ?? (await createSession());
  console.log(`session: ${sessionId}`);
  try {
    await streamAnswer(sessionId);
  } catch (error) {
    // Before the session is deleted: should that fail, too, both are told.
    interrupted ? fail("cancelled", 130) : explain(error);
  } finally {
    if (!given) {
      await promise((done) => copilot.deleteSession({ sessionId }, within(10), done));
      console.log("deleted");
    }
  }
}

async function createSession(): Promise<string> {
  const parameters = { type: "object", properties: { zone: { type: "string" } }, required: ["zone"] };
  const clock = { name: "clock", description: "Tells the time in a time zone.", parametersJson: JSON.stringify(parameters) };
  const permissionPolicy = { rules: [{ kind: "shell", effect: "PERMISSION_EFFECT_ASK" as const }] };
  const request = { tools: [clock], availableTools: ["bash"], permissionPolicy, labels: { from: "grpc-js" } };
  const { session } = await promise<CreateSessionResponse__Output>((done) => copilot.createSession(request, within(30), done));
  return session!.sessionId;
}

/** The deadline of the call is the turn's: when it passes, the agent is stopped. */
async function streamAnswer(sessionId: string) {
  stream = copilot.sendAndStream({ sessionId, prompt: { text: prompt } }, within(Number(seconds)));
  if (interrupted) stream.cancel();
  try {
    for await (const message of stream as AsyncIterable<SendAndStreamResponse__Output>) {
      if (message.event) {
        await handle(sessionId, message.event);
      } else if (message.result) {
        line(`(${message.result.usage?.inputTokens ?? 0} tokens in, ${message.result.usage?.outputTokens ?? 0} out)`);
      }
    }
  } finally {
    // Without this, the agent goes on after an error of ours in the loop.
    stream.cancel();
  }
}

async function handle(sessionId: string, event: SessionEvent__Output) {
  if (event.assistantMessageDelta) {
    process.stdout.write(event.assistantMessageDelta.text);
    midLine = true;
  } else if (event.permissionAsked?.awaitsAnswer) {
    const { askId, kind, subject } = event.permissionAsked;
    // What is left open may be answered by whoever else watches the session, or it times out.
    const allowed = subject === "echo hello";
    line(`[permission ${kind}: ${subject}] ${allowed ? "allowed" : "left to others"}`);
    if (allowed) await respond({ sessionId, askId, answer: { permission: { decision: "PERMISSION_DECISION_ALLOW" } } });
  } else if (event.toolCallAsked?.name === "clock") {
    const { askId, argumentsJson } = event.toolCallAsked;
    line(`[tool clock ${argumentsJson}]`);
    const text = `${new Date().toISOString().slice(11, 16)} in UTC`;
    await respond({ sessionId, askId, answer: { toolResult: { text } } });
  }
}

async function respond(request: RespondRequest) {
  try {
    await promise((done) => copilot.respond(request, within(10), done));
  } catch (error) {
    // Somebody else was faster, and the turn goes on.
    if (readFailure(error)?.reason !== ErrorReason.ASK_SETTLED) throw error;
  }
}

/** An interceptor. From the service configuration grpc-js takes the retries, but not that calls wait for a server. */
function waitForReady(options: InterceptorOptions, nextCall: NextCall) {
  return new InterceptingCall(nextCall(options), {
    start(metadata, listener, next) {
      metadata.setOptions({ ...metadata.getOptions(), waitForReady: true });
      next(metadata, listener);
    },
  });
}

/** Calls wait for a server, so none may be without a deadline. */
function within(seconds: number) {
  return { deadline: Date.now() + seconds * 1000 };
}

/** A unary call as a promise: grpc-js has callbacks only. */
function promise<Response>(call: (done: requestCallback<Response>) => void): Promise<Response> {
  return new Promise((resolve, reject) => call((error, response) => (error ? reject(error) : resolve(response!))));
}

/** Prints a line of its own, also in the middle of the answer. */
function line(text: string) {
  console.log(midLine ? `\n${text}` : text);
  midLine = false;
}

function explain(error: unknown) {
  const failure = readFailure(error);
  if (!failure) return fail(error instanceof Error ? error.message : String(error));
  const { code, message, reason, turn, retryDelayMs } = failure;
  const lines = [`${Code[code]}: ${message}`];
  if (reason) lines.push(`reason: ${ErrorReason[reason]}`);
  if (turn) lines.push(`delivery: ${DeliveryState[turn.delivery]}`);
  if (turn?.partialContent) lines.push(`answer so far: ${turn.partialContent.length} characters`);
  if (turn?.openAsks.length) lines.push(`waiting for: ${turn.openAsks.join(", ")}`);
  if (retryDelayMs !== undefined) lines.push(`retry after: ${retryDelayMs / 1000} s`);
  if (reason === ErrorReason.TURN_TIMEOUT) lines.push("hint: give it more seconds, or ask for less");
  fail(lines.join("\n"));
}

/** The first failure decides the exit status. */
function fail(text: string, status = 1) {
  if (midLine) console.log();
  console.error(text);
  process.exitCode ??= status;
}

await main().catch(explain);
copilot.close();
health.close();

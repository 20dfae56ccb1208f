/**
 * A chat over Connect: creates a session, streams an answer, answers what the agent asks, and deletes the session.
 *
 *     node dist/connect.js [ADDRESS [PROMPT [SECONDS]]]
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Code, CopilotService, DeliveryState, ErrorReason, Health, HealthCheckResponse_ServingStatus } from "copilot-grpc";
import { PermissionDecision, PermissionEffect, readFailure, type RespondRequestSchema, type SendAndStreamRequestSchema, type SessionEvent } from "copilot-grpc";

const [address = "127.0.0.1:50051", prompt = "hello", seconds = "60"] = process.argv.slice(2);
// Pings notice a connection that has died in silence, which a turn of many minutes would otherwise wait on.
const transport = createGrpcTransport({ baseUrl: `http://${address}`, pingIntervalMs: 30_000, pingTimeoutMs: 10_000 });
const copilot = createClient(CopilotService, transport);
const stop = new AbortController();
let interrupted = false;
let midLine = false;

async function main() {
  process.once("SIGINT", () => {
    interrupted = true;
    stop.abort();
  });
  const health = createClient(Health, transport);
  const { status } = await health.check({ service: CopilotService.typeName }, { timeoutMs: 5_000 });
  if (status !== HealthCheckResponse_ServingStatus.SERVING) throw new Error("NOT_SERVING: the service is not ready");
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
    // Leaving the loop over a stream does not end the call: without this, the agent goes on after an error of ours.
    stop.abort();
    if (!given) {
      await copilot.deleteSession({ sessionId }, { timeoutMs: 10_000 });
      console.log("deleted");
    }
  }
}

async function createSession(): Promise<string> {
  const parameters = { type: "object", properties: { zone: { type: "string" } }, required: ["zone"] };
  const clock = { name: "clock", description: "Tells the time in a time zone.", parametersJson: JSON.stringify(parameters) };
  const permissionPolicy = { rules: [{ kind: "shell", effect: PermissionEffect.ASK }] };
  const request = { tools: [clock], availableTools: ["bash"], permissionPolicy, labels: { from: "connect" } };
  const { session } = await copilot.createSession(request, { timeoutMs: 30_000 });
  return session!.sessionId;
}

/** The deadline of the call is the turn's: when it passes, the agent is stopped. */
async function streamAnswer(sessionId: string) {
  for await (const { payload } of sendAndStream({ sessionId, prompt: { text: prompt } }, Date.now() + Number(seconds) * 1000)) {
    if (payload.case === "event") {
      await handle(sessionId, payload.value);
    } else if (payload.case === "result") {
      const { inputTokens = 0n, outputTokens = 0n } = payload.value.usage ?? {};
      line(`(${inputTokens} tokens in, ${outputTokens} out)`);
    }
  }
}

/** SendAndStream with retries, which Connect has none of: up to 5 tries, and only while no stream has begun (gRFC A6). */
async function* sendAndStream(request: MessageInitShape<typeof SendAndStreamRequestSchema>, deadline: number) {
  for (let attempt = 1; ; attempt++) {
    let begun = false;
    const onHeader = () => void (begun = true);
    try {
      // At least 1: to Connect, 0 means no deadline.
      const timeoutMs = Math.max(1, deadline - Date.now());
      return yield* copilot.sendAndStream(request, { timeoutMs, signal: stop.signal, onHeader });
    } catch (error) {
      const { code, message, pushbackMs, retryDelayMs } = readFailure(error) ?? {};
      const pause = pushbackMs ?? retryDelayMs ?? 200 * 2 ** (attempt - 1) * (0.8 + 0.4 * Math.random());
      // Connect calls it INTERNAL when the server closes the connection (GOAWAY) and has not looked at the call.
      const refused = message?.includes("NGHTTP2_REFUSED_STREAM");
      const retryable = refused || code === Code.UNAVAILABLE || code === Code.RESOURCE_EXHAUSTED;
      if (begun || !retryable || attempt === 5 || pause < 0 || Date.now() + pause >= deadline) throw error;
      await sleep(pause, undefined, { signal: stop.signal });
    }
  }
}

async function handle(sessionId: string, { payload }: SessionEvent) {
  if (payload.case === "assistantMessageDelta") {
    process.stdout.write(payload.value.text);
    midLine = true;
  } else if (payload.case === "permissionAsked" && payload.value.awaitsAnswer) {
    const { askId, kind, subject } = payload.value;
    // What is left open may be answered by whoever else watches the session, or it times out.
    const allowed = subject === "echo hello";
    line(`[permission ${kind}: ${subject}] ${allowed ? "allowed" : "left to others"}`);
    const permission = { case: "permission", value: { decision: PermissionDecision.ALLOW } } as const;
    if (allowed) await respond({ sessionId, askId, answer: { answer: permission } });
  } else if (payload.case === "toolCallAsked" && payload.value.name === "clock") {
    const { askId, argumentsJson } = payload.value;
    line(`[tool clock ${argumentsJson}]`);
    const time = new Date().toISOString().slice(11, 16);
    const toolResult = { case: "toolResult", value: { content: { case: "text", value: `${time} in UTC` } } } as const;
    await respond({ sessionId, askId, answer: { answer: toolResult } });
  }
}

async function respond(request: MessageInitShape<typeof RespondRequestSchema>) {
  try {
    await copilot.respond(request, { timeoutMs: 10_000 });
  } catch (error) {
    // Somebody else was faster, and the turn goes on.
    if (readFailure(error)?.reason !== ErrorReason.ASK_SETTLED) throw error;
  }
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

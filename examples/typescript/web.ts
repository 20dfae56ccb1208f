/**
 * A chat web API in front of copilot-grpc, by node:http and Connect.
 *
 *     node dist/web.js [LISTEN [ADDRESS]]
 *
 *     POST   /chats {"id"?}                   creates a chat, or resumes the one of that id: {"id", "resumed"}
 *     POST   /chats/{id}/messages {"text"}    waits for the answer: {"text", "message_id"}
 *     GET    /chats/{id}/stream?text=...      the answer as server-sent events: `delta`s, then `done` or `error`
 *     DELETE /chats/{id}
 *     GET    /                                a page to chat on
 *
 * It has no login: whoever reaches it can use every chat. A turn is cancelled when its browser goes away.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Code, CopilotService, DeliveryState, ErrorReason, readFailure } from "copilot-grpc";

const [listen = "127.0.0.1:8080", address = "127.0.0.1:50051"] = process.argv.slice(2);
const TURN_MS = 10 * 60_000;
const CALL_MS = 30_000;
const MAX_BODY = 1024 * 1024;
const transport = createGrpcTransport({ baseUrl: `http://${address}`, pingIntervalMs: 30_000, pingTimeoutMs: 10_000 });
const copilot = createClient(CopilotService, transport);

/** As google.rpc.Code's documentation has them. What is not here is a 500. */
const HTTP_STATUS: Partial<Record<Code, number>> = {
  [Code.CANCELLED]: 499,
  [Code.INVALID_ARGUMENT]: 400,
  [Code.FAILED_PRECONDITION]: 400,
  [Code.OUT_OF_RANGE]: 400,
  [Code.UNAUTHENTICATED]: 401,
  [Code.PERMISSION_DENIED]: 403,
  [Code.NOT_FOUND]: 404,
  [Code.ABORTED]: 409,
  [Code.ALREADY_EXISTS]: 409,
  [Code.RESOURCE_EXHAUSTED]: 429,
  [Code.UNIMPLEMENTED]: 501,
  [Code.UNAVAILABLE]: 503,
  [Code.DEADLINE_EXCEEDED]: 504,
};

/** A request that is refused here, before any call. */
class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: Code,
    message: string,
  ) {
    super(message);
  }
}

const server = createServer((request, response) => {
  // `close` comes at the end of every response; where that is the regular one, nothing is left to cancel.
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  // Writing to a browser that has gone is no reason to end the process.
  response.on("error", () => gone.abort());
  route(request, response, gone.signal).catch((error: unknown) => sendError(response, error));
});

async function route(request: IncomingMessage, response: ServerResponse, signal: AbortSignal) {
  // A page of another site could otherwise send prompts by a form or an EventSource.
  const site = request.headers["sec-fetch-site"] ?? "none";
  if (site !== "none" && site !== "same-origin") throw new Refused(403, Code.PERMISSION_DENIED, "only for its own pages");
  const url = new URL(request.url ?? "/", "http://localhost");
  const [, chats, sessionId = "", action] = url.pathname.split("/").map(decoded);
  switch ([request.method, chats, sessionId && "id", action].filter(Boolean).join(" ")) {
    case "GET":
      response.setHeader("content-type", "text/html; charset=utf-8").end(PAGE);
      return;
    case "POST chats": {
      const id = field(await body(request), "id");
      // With an id it may be repeated: the second time it resumes.
      const init = { sessionId: id, resumeIfExists: id !== "" };
      const { session, resumed } = await copilot.createSession(init, { signal, timeoutMs: CALL_MS });
      return sendJson(response, resumed ? 200 : 201, { id: session!.sessionId, resumed });
    }
    case "POST chats id messages": {
      const text = field(await body(request), "text");
      const { result } = await copilot.sendAndWait({ sessionId, prompt: { text } }, { signal, timeoutMs: TURN_MS });
      return sendJson(response, 200, { text: result!.content, message_id: result!.messageId });
    }
    case "GET chats id stream":
      // An EventSource connects again when a stream ends, and would send the prompt again. 204 stops it.
      if (request.headers["last-event-id"]) return void response.writeHead(204).end();
      return stream(response, sessionId, url.searchParams.get("text") ?? "", signal);
    case "DELETE chats id":
      await copilot.deleteSession({ sessionId }, { signal, timeoutMs: CALL_MS });
      response.writeHead(204).end();
      return;
    default:
      throw new Refused(404, Code.NOT_FOUND, `there is no ${request.method} ${url.pathname}`);
  }
}

async function stream(response: ServerResponse, sessionId: string, text: string, signal: AbortSignal) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" });
  const write = async (text: string) => {
    // A slow browser slows the reading of the gRPC stream, and the server joins deltas for it.
    if (!response.write(text)) await once(response, "drain", { signal });
  };
  const event = (name: string, data: object) => write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
  await write("id: turn\n\n");
  try {
    const prompt = { sessionId, prompt: { text }, eventTypes: ["assistant.message_delta"], excludeSubAgents: true };
    for await (const { payload } of copilot.sendAndStream(prompt, { signal, timeoutMs: TURN_MS })) {
      if (payload.case === "heartbeat") {
        await write(": heartbeat\n\n");
      } else if (payload.case === "event" && payload.value.payload.case === "assistantMessageDelta") {
        await event("delta", { text: payload.value.payload.value.text });
      } else if (payload.case === "result") {
        // Counts are bigints, which JSON.stringify refuses.
        const { inputTokens = 0n, outputTokens = 0n } = payload.value.usage ?? {};
        await event("done", { input_tokens: Number(inputTokens), output_tokens: Number(outputTokens) });
      }
    }
  } catch (error) {
    if (!signal.aborted) await event("error", errorBody(error, true));
  }
  response.end();
}

function errorBody(error: unknown, ofTurn = false) {
  if (error instanceof Refused) return { code: Code[error.code], reason: "", message: error.message };
  const failure = readFailure(error);
  if (!failure) {
    console.error(error);
    return { code: Code[Code.INTERNAL], reason: "", message: "internal error" };
  }
  const { code, reason, message, delivery } = failure;
  const body = { code: Code[code], reason: reason ? ErrorReason[reason] : "", message };
  return ofTurn ? { ...body, delivery: delivery ? DeliveryState[delivery] : "" } : body;
}

function sendError(response: ServerResponse, error: unknown) {
  if (response.headersSent || response.destroyed) return void response.destroy();
  const { code, retryDelayMs, pushbackMs = -1 } = readFailure(error) ?? {};
  const wait = retryDelayMs ?? pushbackMs;
  if (wait >= 0) response.setHeader("retry-after", Math.ceil(wait / 1000));
  const status = error instanceof Refused ? error.status : ((code && HTTP_STATUS[code]) ?? 500);
  sendJson(response, status, errorBody(error));
}

function sendJson(response: ServerResponse, status: number, body: object) {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(body));
}

/** The JSON object that a request has as its body; of an empty body, an empty object. */
async function body(request: IncomingMessage): Promise<object> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY) throw new Refused(413, Code.INVALID_ARGUMENT, `the body has more than ${MAX_BODY} bytes`);
    chunks.push(chunk);
  }
  try {
    const value: unknown = JSON.parse(Buffer.concat(chunks).toString() || "{}");
    if (typeof value === "object" && value !== null) return value;
  } catch {
    // Refused below.
  }
  throw new Refused(400, Code.INVALID_ARGUMENT, "the body is not a JSON object");
}

/** A field of a body. Empty: it is not there. */
function field(body: object, name: string): string {
  const value = (body as Record<string, unknown>)[name] ?? "";
  if (typeof value !== "string") throw new Refused(400, Code.INVALID_ARGUMENT, `${name} is not a string`);
  return value;
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new Refused(400, Code.INVALID_ARGUMENT, "the path is not well encoded");
  }
}

const PAGE = `<!doctype html>
<meta charset="utf-8">
<title>Chat</title>
<main style="white-space: pre-wrap"></main>
<form><input name="text" autocomplete="off" autofocus required> <button>Send</button></form>
<script type="module">
  const [main, form, button] = ["main", "form", "button"].map((name) => document.querySelector(name));
  const created = await (await fetch("/chats", { method: "POST", body: "{}" })).json();
  if (!created.id) main.append(created.code + ": " + created.message);
  form.onsubmit = (submitted) => {
    submitted.preventDefault();
    const text = form.elements.text.value;
    main.append("> " + text + "\\n");
    form.reset();
    button.disabled = true;
    const source = new EventSource("/chats/" + created.id + "/stream?text=" + encodeURIComponent(text));
    const end = (text) => {
      source.close();
      button.disabled = false;
      main.append(text + "\\n\\n");
    };
    source.addEventListener("delta", ({ data }) => main.append(JSON.parse(data).text));
    source.addEventListener("done", () => end(""));
    // It is one event for both: an error that was sent has data, a connection that was lost has none.
    const problem = (data) => (data ? JSON.parse(data).message : "the connection was lost");
    source.addEventListener("error", ({ data }) => end("\\n[" + problem(data) + "]"));
  };
</script>
`;

const { hostname, port } = new URL(`http://${listen}`);
server.once("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
server.listen(Number(port || 80), hostname.replace(/^\[|\]$/g, ""), () => {
  const bound = server.address();
  console.log(`listening on http://${hostname}:${typeof bound === "object" ? bound?.port : port}`);
});

/**
 * Reads what a failed call says: the error's reason, how far a turn had come, and when to try again.
 *
 * It takes the errors of both of Node's gRPC libraries, a `ConnectError` of Connect and a `ServiceError` of grpc-js, by their
 * shape: it imports neither.
 */
import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { ErrorReason } from "./gen/copilot_grpc/v1/error_reason_pb.js";
import { type DeliveryState, type TurnFailure, TurnFailureSchema } from "./gen/copilot_grpc/v1/turn_pb.js";
import type { Code } from "./gen/google/rpc/code_pb.js";
import { type ErrorInfo, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

/** What a failed call says. What is undefined was not said. */
export interface Failure {
  /** The canonical code. `Code[code]` is its name, such as "UNAVAILABLE". */
  readonly code: Code;
  /** The message for people. */
  readonly message: string;
  /** Why the call failed. `ErrorReason[reason]` is its name without a prefix. Undefined: the client or a proxy made the error,
   *  or the server is newer than this package, and `info` has a reason that it does not know. */
  readonly reason: ErrorReason | undefined;
  /** The reason as it was sent, with its metadata, such as `settlement` of ASK_SETTLED. */
  readonly info: ErrorInfo | undefined;
  /** Of a failed turn: whether the agent got the prompt. */
  readonly delivery: DeliveryState | undefined;
  /** Of a failed turn: how far it had come. */
  readonly turn: TurnFailure | undefined;
  /** How long to wait before another try, in milliseconds, by RetryInfo. */
  readonly retryDelayMs: number | undefined;
  /** The trailer `grpc-retry-pushback-ms`. Negative: a library may not repeat the call by itself. Otherwise nothing was done,
   *  and the call may be repeated after so many milliseconds. */
  readonly pushbackMs: number | undefined;
}

/** Reads the error of a call. Undefined: it is not the error of a call, but a bug, say. */
export function readFailure(error: unknown): Failure | undefined {
  const read = isConnectError(error) ? fromConnect(error) : isServiceError(error) ? fromGrpcJs(error) : undefined;
  if (!read) return undefined;
  const infos = all(read.details, ErrorInfoSchema);
  const info = infos.find(({ domain }) => domain === "copilot-grpc");
  const turn = all(read.details, TurnFailureSchema)[0];
  const delay = all(read.details, RetryInfoSchema)[0]?.retryDelay;
  return {
    code: read.code,
    message: read.message,
    reason: info && ErrorReason[info.reason as keyof typeof ErrorReason],
    info,
    delivery: turn?.delivery,
    turn,
    retryDelayMs: delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
    pushbackMs: pushback(read.pushback),
  };
}

/** A message in the details of an error: its full name, and its bytes. */
interface Detail {
  type: string;
  value: Uint8Array;
}

interface ConnectErrorLike {
  name: "ConnectError";
  code: number;
  rawMessage: string;
  metadata: Headers;
  details: (Detail | object)[];
}

interface ServiceErrorLike {
  code: number;
  details: string;
  metadata: { get(key: string): (string | Uint8Array)[] };
}

function isConnectError(error: unknown): error is ConnectErrorLike {
  return error instanceof Error && error.name === "ConnectError" && "rawMessage" in error;
}

function isServiceError(error: unknown): error is ServiceErrorLike {
  if (!(error instanceof Error)) return false;
  const { code, details, metadata } = error as Error & Partial<ServiceErrorLike>;
  return typeof code === "number" && typeof details === "string" && metadata !== undefined;
}

function fromConnect(error: ConnectErrorLike) {
  const details = error.details.filter((detail): detail is Detail => "type" in detail);
  return { code: error.code, message: error.rawMessage, details, pushback: error.metadata.get("grpc-retry-pushback-ms") };
}

function fromGrpcJs(error: ServiceErrorLike) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const status = bytes instanceof Uint8Array ? decoded(StatusSchema, bytes) : undefined;
  // An Any names its type by a URL that ends with the name.
  const details = status?.details.map(({ typeUrl, value }) => ({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value }));
  const [pushback] = error.metadata.get("grpc-retry-pushback-ms");
  return { code: error.code, message: error.details, details: details ?? [], pushback: pushback?.toString() };
}

function all<Desc extends DescMessage>(details: Detail[], schema: Desc): MessageShape<Desc>[] {
  return details
    .filter(({ type }) => type === schema.typeName)
    .flatMap(({ value }) => decoded(schema, value) ?? []);
}

/** Bytes that are no such message count as none: they must not hide the error that they came with. */
function decoded<Desc extends DescMessage>(schema: Desc, bytes: Uint8Array): MessageShape<Desc> | undefined {
  try {
    return fromBinary(schema, bytes);
  } catch {
    return undefined;
  }
}

/** Of a value that is no number, gRPC's rules (gRFC A6) say that the call may not be repeated, as of -1. */
function pushback(value: string | null | undefined): number | undefined {
  if (value === null || value === undefined) return undefined;
  return /^\d+$/.test(value) ? Number(value) : -1;
}

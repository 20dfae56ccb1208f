/** Everything of the package: the generated code, the reading of errors, and the shipped service configuration. */
export * from "./errors.js";
export * from "./gen/copilot_grpc/v1/ask_pb.js";
export * from "./gen/copilot_grpc/v1/copilot_service_pb.js";
export * from "./gen/copilot_grpc/v1/error_reason_pb.js";
export * from "./gen/copilot_grpc/v1/event_pb.js";
export * from "./gen/copilot_grpc/v1/model_pb.js";
export * from "./gen/copilot_grpc/v1/server_info_pb.js";
export * from "./gen/copilot_grpc/v1/session_pb.js";
export * from "./gen/copilot_grpc/v1/turn_pb.js";
export * from "./gen/google/rpc/code_pb.js";
export * from "./gen/google/rpc/error_details_pb.js";
export * from "./gen/google/rpc/status_pb.js";
export * from "./gen/grpc/health/v1/health_pb.js";
export { serviceConfig } from "./service-config.js";

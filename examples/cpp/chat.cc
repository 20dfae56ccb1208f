// A chat with the agent: creates a session, streams an answer, runs a tool, answers a permission, deletes the session.
//
//     chat [ADDRESS [PROMPT [SECONDS]]]
//
// With COPILOT_SESSION=ID in the environment it uses that session, and leaves it there.

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpc/health/v1/health.grpc.pb.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include "copilot_grpc/v1/copilot_service.grpc.pb.h"
#include "service_config.h"

namespace api = copilot_grpc::v1;
using namespace std::chrono_literals;
using google::rpc::ErrorInfo, google::rpc::RetryInfo, grpc::Status, grpc::health::v1::Health;
using Seconds = std::chrono::duration<double>;

// Stopped by Ctrl-C, which cancels the calls that have its token.
std::stop_source interrupted;

// What a call needs: calls wait for a server that is ready, so each has a deadline.
class Call : public grpc::ClientContext {
 public:
  explicit Call(Seconds timeout, std::stop_token stop = interrupted.get_token()) : stop_(stop, Cancel{this}) {
    set_deadline(std::chrono::time_point_cast<std::chrono::system_clock::duration>(std::chrono::system_clock::now() + timeout));
  }

 private:
  struct Cancel {
    Call* call;
    void operator()() const { call->TryCancel(); }
  };
  std::stop_callback<Cancel> stop_;
};

// Ends the line of the answer, if it is printing one.
bool in_line = false;
void EndLine() {
  if (std::exchange(in_line, false)) std::cout << "\n";
}

// The first detail of this type, or an empty one.
template <typename Detail>
Detail Find(const google::rpc::Status& status) {
  Detail found;
  for (const auto& detail : status.details())
    if (detail.UnpackTo(&found)) break;
  return found;
}

// Whether a call succeeded. If not, and Ctrl-C is not the cause, stderr says why: every error of the service has an ErrorInfo,
// that of a turn also a TurnFailure.
bool Succeeded(const Status& status) {
  if (status.ok()) return true;
  EndLine();
  if (status.error_code() == grpc::CANCELLED && interrupted.stop_requested()) return false;
  static constexpr const char* kCodes[] = {
      "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
      "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  std::cerr << kCodes[status.error_code()] << ": " << status.error_message() << "\n";

  google::rpc::Status details;  // Without details if the error was made on this side, such as by a connection that failed.
  details.ParseFromString(status.error_details());
  const auto info = Find<ErrorInfo>(details);
  const auto failure = Find<api::TurnFailure>(details);
  const auto retry = Find<RetryInfo>(details);
  api::ErrorReason reason = api::ERROR_REASON_UNSPECIFIED;
  if (info.domain() == "copilot-grpc" && api::ErrorReason_Parse("ERROR_REASON_" + info.reason(), &reason))
    std::cerr << "reason: " << info.reason() << "\n";
  if (failure.delivery() != api::DELIVERY_STATE_UNSPECIFIED)
    std::cerr << "delivery: " << api::DeliveryState_Name(failure.delivery()).substr(sizeof "DELIVERY_STATE_" - 1) << "\n";
  if (const auto& text = failure.partial_content(); !text.empty())
    std::cerr << "answer so far: " << std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }) << " characters\n";
  for (const auto& ask : failure.open_asks()) std::cerr << "waiting for: " << ask << "\n";
  if (const auto& delay = retry.retry_delay(); retry.has_retry_delay())
    std::cerr << "retry after: " << static_cast<double>(delay.seconds()) + delay.nanos() / 1e9 << " s\n";
  if (reason == api::ERROR_REASON_TURN_TIMEOUT) std::cerr << "hint: give it more seconds, or ask for less\n";
  return false;
}

// On a channel without the service configuration: one with it takes a server that is not ready for one that is not there.
bool CheckHealth(const std::string& address) {
  const auto health = Health::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(api::CopilotService::service_full_name());
  grpc::health::v1::HealthCheckResponse response;
  Call call(5s);
  if (!Succeeded(health->Check(&call, request, &response))) return false;
  const bool serving = response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  (serving ? std::cout : std::cerr) << (serving ? "health: SERVING\n" : "NOT_SERVING: the service is not ready\n");
  return serving;
}

// A session whose agent has a tool of ours, and a shell for which it asks before each command. Empty if that failed.
std::string CreateSession(api::CopilotService::Stub& service) {
  api::CreateSessionRequest request;
  auto& clock = *request.add_tools();
  clock.set_name("clock");
  clock.set_description("Tells the time in a time zone.");
  clock.set_parameters_json(R"({"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]})");
  request.add_available_tools("bash");
  auto& rule = *request.mutable_permission_policy()->add_rules();
  rule.set_kind("shell");
  rule.set_effect(api::PERMISSION_EFFECT_ASK);
  (*request.mutable_labels())["from"] = "cpp";

  api::CreateSessionResponse response;
  Call call(30s);
  if (!Succeeded(service.CreateSession(&call, request, &response))) return "";
  std::cout << "session: " << response.session().session_id() << "\n";
  return response.session().session_id();
}

bool DeleteSession(api::CopilotService::Stub& service, const std::string& session) {
  api::DeleteSessionRequest request;
  request.set_session_id(session);
  api::DeleteSessionResponse response;
  Call call(10s, {});  // Not cancelled by Ctrl-C.
  if (!Succeeded(service.DeleteSession(&call, request, &response))) return false;
  std::cout << "deleted\n";
  return true;
}

// Answers what the agent asks in this event, if it is for us.
void Answer(api::CopilotService::Stub& service, const std::string& session, const api::SessionEvent& event) {
  api::RespondRequest request;
  request.set_session_id(session);
  if (const auto& ask = event.permission_asked(); ask.awaits_answer()) {
    const bool allowed = ask.subject() == "echo hello";
    EndLine();
    std::cout << "[permission " << ask.kind() << ": " << ask.subject() << (allowed ? "] allowed\n" : "] left to others\n");
    if (!allowed) return;  // Whoever else watches the session may answer, or the ask times out.
    request.set_ask_id(ask.ask_id());
    request.mutable_answer()->mutable_permission()->set_decision(api::PERMISSION_DECISION_ALLOW);
  } else if (const auto& tool = event.tool_call_asked(); tool.name() == "clock") {
    EndLine();
    std::cout << "[tool clock " << tool.arguments_json() << "]\n";
    request.set_ask_id(tool.ask_id());
    const std::time_t now = std::time(nullptr);
    char time[sizeof "12:34 in UTC"];
    std::strftime(time, sizeof time, "%H:%M in UTC", std::gmtime(&now));
    request.mutable_answer()->mutable_tool_result()->set_text(time);
  } else {
    return;
  }
  api::RespondResponse response;
  Call call(10s);
  Succeeded(service.Respond(&call, request, &response));  // If not, the turn goes on: somebody else may have been faster.
}

// Prints the answer as it comes. The call's deadline is the turn's: when it passes, the agent is stopped.
bool StreamAnswer(api::CopilotService::Stub& service, const std::string& session, const std::string& prompt, Seconds timeout) {
  api::SendAndStreamRequest request;
  request.set_session_id(session);
  request.mutable_prompt()->set_text(prompt);
  Call call(timeout);
  const auto stream = service.SendAndStream(&call, request);
  for (api::SendAndStreamResponse message; stream->Read(&message);) {
    if (message.event().has_assistant_message_delta()) {
      std::cout << message.event().assistant_message_delta().text();
      in_line = true;
    } else if (message.has_event()) {
      Answer(service, session, message.event());
    } else if (message.has_result()) {
      const auto& usage = message.result().usage();
      EndLine();
      std::cout << "(" << usage.input_tokens() << " tokens in, " << usage.output_tokens() << " out)\n";
    }
  }
  return Succeeded(stream->Finish());
}

bool Chat(api::CopilotService::Stub& service, const std::string& prompt, Seconds timeout) {
  if (const char* session = std::getenv("COPILOT_SESSION")) return StreamAnswer(service, session, prompt, timeout);
  const std::string session = CreateSession(service);
  if (session.empty()) return false;
  const bool answered = StreamAnswer(service, session, prompt, timeout);
  return DeleteSession(service, session) && answered;
}

int main(int argc, char** argv) {
  std::cout << std::unitbuf;  // What is printed is seen at once.
  const std::string address = argc > 1 ? argv[1] : "127.0.0.1:50051";
  const std::string prompt = argc > 2 ? argv[2] : "hello";
  const Seconds timeout(argc > 3 ? std::atof(argv[3]) : 60);

  // Before gRPC starts threads, which inherit what is blocked: Ctrl-C is for the one thread that waits for it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, stop = interrupted]() mutable {
    int signal;
    sigwait(&signals, &signal);
    stop.request_stop();
  }).detach();

  grpc::ChannelArguments options;
  options.SetServiceConfigJSON(kServiceConfig);
  // A server that has vanished is noticed within 30 seconds. Without the last line gRPC stops looking after two pings, because
  // in a long turn only the server sends.
  options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  options.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), options);

  const auto service = api::CopilotService::NewStub(channel);
  const bool done = CheckHealth(address) && Chat(*service, prompt, timeout);
  if (interrupted.stop_requested()) std::cerr << "cancelled\n";
  return interrupted.stop_requested() ? 130 : done ? 0 : 1;
}

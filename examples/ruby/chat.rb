# frozen_string_literal: true

# A chat with the agent: creates a session, streams an answer, runs a tool, answers a permission, deletes the session.
#
#     ruby -I GENERATED chat.rb [ADDRESS [PROMPT [SECONDS]]]
#
# GENERATED is the folder of the generated code. With COPILOT_SESSION=ID in the environment it uses that session, and leaves it
# there.

require "google/protobuf/well_known_types"
require "google/rpc/error_details_pb"
require "grpc"
require "grpc/health/v1/health_services_pb"
require "copilot_grpc/v1/copilot_service_services_pb"

class Chat
  include CopilotGrpc::V1
  Health = Grpc::Health::V1

  OPTIONS = {
    "grpc.service_config" => File.read(File.join(__dir__, "../service-config.json")),
    # A server that has vanished is noticed within 30 seconds. Without the last of these gRPC stops looking after two pings,
    # because in a long turn only the server sends.
    "grpc.keepalive_time_ms" => 20_000,
    "grpc.keepalive_timeout_ms" => 10_000,
    "grpc.http2.max_pings_without_data" => 0
  }.freeze

  def initialize(address)
    @service = CopilotService::Stub.new(address, :this_channel_is_insecure, channel_args: OPTIONS)
    # Without the service configuration: with it a server that is not ready is taken for one that is not there.
    @health = Health::Health::Stub.new(address, :this_channel_is_insecure)
  end

  # Returns the exit status: that of the first thing that went wrong.
  def run(prompt, seconds)
    session = ENV["COPILOT_SESSION"]
    ready = attempt do
      check_health
      session ||= create_session
    end
    return ready unless ready.zero?

    answered = attempt { stream_answer(session, prompt, seconds) }
    deleted = ENV["COPILOT_SESSION"] ? 0 : attempt { delete_session(session) }
    [answered, deleted].find(&:positive?) || 0
  end

  private

  # Runs the block, and returns an exit status. An error is explained, and goes no further.
  def attempt
    yield
    0
  rescue GRPC::BadStatus => error
    explain(error)
    1
  rescue Interrupt
    end_line
    warn "cancelled"
    130
  end

  # Makes a call, and gives its response or stream to the block. That is done in another thread, because while a call waits,
  # its thread notices no signal (ruby-grpc 1.51): the main thread waits for it here, and at Ctrl-C cancels the call.
  def await(call, &block)
    worker = Thread.new do
      Thread.current.report_on_exception = false # `value` raises what it is.
      call.execute.then(&block)
    end
    worker.value
  rescue Interrupt
    call.cancel
    raise
  end

  # Options of a call. Calls wait for a server that is ready, so each needs a deadline. The operation is for `await`.
  def within(seconds)
    { deadline: Time.now + seconds, return_op: true }
  end

  def check_health
    request = Health::HealthCheckRequest.new(service: CopilotService::Service.service_name)
    status = await(@health.check(request, **within(5)), &:status)
    abort "NOT_SERVING: the service is not ready" unless status == :SERVING
    puts "health: SERVING"
  end

  # A session whose agent has a tool of ours, and a shell for which it asks before each command.
  def create_session
    request = CreateSessionRequest.new(
      tools: [Tool.new(
        name: "clock",
        description: "Tells the time in a time zone.",
        parameters_json: '{"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}'
      )],
      available_tools: ["bash"],
      permission_policy: PermissionPolicy.new(rules: [PermissionRule.new(kind: "shell", effect: :PERMISSION_EFFECT_ASK)]),
      labels: { "from" => "ruby" }
    )
    session = await(@service.create_session(request, **within(30)), &:session).session_id
    puts "session: #{session}"
    session
  end

  def delete_session(session)
    await(@service.delete_session(DeleteSessionRequest.new(session_id: session), **within(10)), &:itself)
    puts "deleted"
  end

  # Prints the answer as it comes. The call's deadline is the turn's: when it passes, the agent is stopped.
  def stream_answer(session, text, seconds)
    request = SendAndStreamRequest.new(session_id: session, prompt: Prompt.new(text: text))
    await(@service.send_and_stream(request, **within(seconds))) do |messages|
      messages.each do |message|
        case message.payload
        when :event then handle(session, message.event)
        when :result
          usage = message.result.usage
          end_line
          puts "(#{usage.input_tokens} tokens in, #{usage.output_tokens} out)"
        end
      end
    end
  end

  # Prints a piece of the answer, or answers what the agent asks, if that is for us.
  def handle(session, event)
    case event.payload
    when :assistant_message_delta
      print event.assistant_message_delta.text
      @in_line = true
    when :permission_asked
      ask = event.permission_asked
      return unless ask.awaits_answer

      allowed = ask.subject == "echo hello"
      end_line
      puts "[permission #{ask.kind}: #{ask.subject}] #{allowed ? 'allowed' : 'left to others'}"
      # Otherwise whoever else watches the session may answer, or the ask times out.
      respond(session, ask, permission: PermissionAnswer.new(decision: :PERMISSION_DECISION_ALLOW)) if allowed
    when :tool_call_asked
      ask = event.tool_call_asked
      return unless ask.name == "clock"

      end_line
      puts "[tool clock #{ask.arguments_json}]"
      respond(session, ask, tool_result: ToolResult.new(text: Time.now.utc.strftime("%H:%M in UTC")))
    end
  end

  # Ends the line of the answer, if it is printing one.
  def end_line
    puts if @in_line
    @in_line = false
  end

  # An error does not end the turn: somebody else may have been faster.
  def respond(session, ask, answer)
    request = RespondRequest.new(session_id: session, ask_id: ask.ask_id, answer: AskAnswer.new(answer))
    @service.respond(request, deadline: Time.now + 10)
  rescue GRPC::BadStatus => error
    explain(error)
  end

  # Says on stderr why a call failed: every error of the service has an ErrorInfo, that of a turn also a TurnFailure.
  def explain(error)
    codes = GRPC::Core::StatusCodes
    end_line
    warn "#{codes.constants.find { |name| codes.const_get(name) == error.code }}: #{error.details}"
    info = detail(error, Google::Rpc::ErrorInfo)
    reason = ErrorReason.resolve(:"ERROR_REASON_#{info.reason}") if info&.domain == "copilot-grpc"
    warn "reason: #{info.reason}" if reason
    if (failure = detail(error, TurnFailure))
      delivery = failure.delivery.to_s.delete_prefix("DELIVERY_STATE_")
      warn "delivery: #{delivery}" unless delivery == "UNSPECIFIED"
      warn "answer so far: #{failure.partial_content.length} characters" unless failure.partial_content.empty?
      failure.open_asks.each { |ask| warn "waiting for: #{ask}" }
    end
    delay = detail(error, Google::Rpc::RetryInfo)&.retry_delay
    warn "retry after: #{delay.to_f} s" if delay
    warn "hint: give it more seconds, or ask for less" if reason == ErrorReason::ERROR_REASON_TURN_TIMEOUT
  end

  # A detail of the error, or nil: errors that were made on this side, such as by a connection that failed, have none.
  def detail(error, type)
    error.to_rpc_status&.details&.find { |any| any.is(type) }&.unpack(type)
  end
end

$stdout.sync = true
address, prompt, seconds = ARGV
exit Chat.new(address || "127.0.0.1:50051").run(prompt || "hello", (seconds || 60).to_f)

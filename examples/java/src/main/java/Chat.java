import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.SECONDS;

import io.github.copilotgrpc.CopilotFailure;
import io.github.copilotgrpc.v1.*;
import io.grpc.*;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import java.io.PrintStream;
import java.time.*;
import java.util.concurrent.CountDownLatch;
import java.util.logging.*;

/** Streams an answer of the agent, and answers what it asks: chat [ADDRESS [PROMPT [SECONDS]]]. */
public final class Chat {
  private static final PrintStream OUT = new PrintStream(System.out, true, UTF_8);
  private static final String PARAMETERS = """
      {"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}""";
  /** Kept here, as a logger that nobody holds forgets its level. gRPC logs names that it cannot resolve, with their stack. */
  private static final Logger GRPC = Logger.getLogger("io.grpc");
  /** Ctrl-C cancels this context, and with it the stream that is opened in it. */
  private static final Context.CancellableContext TURN = Context.current().withCancellation();

  private final CopilotServiceGrpc.CopilotServiceBlockingV2Stub copilot;
  private final String session;

  private Chat(Channel channel, String session) throws StatusException {
    this.copilot = CopilotServiceGrpc.newBlockingV2Stub(channel);
    this.session = session != null ? session : create();
  }

  public static void main(String[] args) throws InterruptedException {
    GRPC.setLevel(Level.OFF);
    ManagedChannel channel = Grpc
        .newChannelBuilder(args.length > 0 ? args[0] : "127.0.0.1:50051", InsecureChannelCredentials.create())
        .defaultServiceConfig(CopilotFailure.serviceConfig())
        // Otherwise a machine that vanishes without a word is noticed at the deadline only.
        .keepAliveTime(30, SECONDS).keepAliveTimeout(10, SECONDS).build();
    CountDownLatch finished = new CountDownLatch(1);
    // After Ctrl-C the JVM ends with status 130, but not before this hook does: `run` deletes the session meanwhile.
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      TURN.cancel(null);
      try {
        finished.await(20, SECONDS);
      } catch (InterruptedException e) {}
    }));
    double seconds = args.length > 2 ? Double.parseDouble(args[2]) : 60;
    boolean done = run(channel, args.length > 1 ? args[1] : "hello", Duration.ofMillis(Math.round(1000 * seconds)));
    channel.shutdownNow();
    finished.countDown();
    System.exit(done ? 0 : 1);
  }

  private static boolean run(Channel channel, String prompt, Duration time) throws InterruptedException {
    try {
      var health = HealthGrpc.newBlockingV2Stub(channel).withDeadlineAfter(Duration.ofSeconds(5));
      var request = HealthCheckRequest.newBuilder().setService(CopilotServiceGrpc.SERVICE_NAME).build();
      if (health.check(request).getStatus() != ServingStatus.SERVING) {
        System.err.println("NOT_SERVING: the service is not ready");
        return false;
      }
      OUT.println("health: SERVING");
      String given = System.getenv("COPILOT_SESSION");
      Chat chat = new Chat(channel, given);
      try {
        return chat.turn(prompt, time);
      } finally {
        if (given == null) chat.delete();
        if (TURN.isCancelled()) System.err.println("cancelled");
      }
    } catch (StatusException error) {
      explain(error);
      return false;
    }
  }

  private String create() throws StatusException {
    var clock = Tool.newBuilder().setName("clock").setDescription("Tells the time.").setParametersJson(PARAMETERS);
    var shell = PermissionRule.newBuilder().setKind("shell").setEffect(PermissionEffect.PERMISSION_EFFECT_ASK);
    var request = CreateSessionRequest.newBuilder().addTools(clock).addAvailableTools("bash")
        .setPermissionPolicy(PermissionPolicy.newBuilder().addRules(shell)).putLabels("from", "java").build();
    var created = copilot.withDeadlineAfter(Duration.ofSeconds(30)).createSession(request).getSession();
    OUT.println("session: " + created.getSessionId());
    return created.getSessionId();
  }

  /** The deadline of the call is the turn's: when it passes, the agent is stopped. */
  private boolean turn(String prompt, Duration time) throws InterruptedException {
    var request = SendAndStreamRequest.newBuilder().setSessionId(session).setPrompt(Prompt.newBuilder().setText(prompt));
    Context outer = TURN.attach();
    var stream = copilot.withDeadlineAfter(time).sendAndStream(request.build());
    try {
      // Not hasNext(): at an error it may drop the message before it.
      for (SendAndStreamResponse message; (message = stream.read()) != null; ) {
        switch (message.getPayloadCase()) {
          case EVENT -> show(message.getEvent());
          case RESULT -> {
            Usage usage = message.getResult().getUsage();
            OUT.printf("%n(%d tokens in, %d out)%n", usage.getInputTokens(), usage.getOutputTokens());
          }
          default -> {} // A heartbeat, or what only a newer server sends.
        }
      }
      return true;
    } catch (StatusException error) {
      OUT.println();
      if (!TURN.isCancelled()) explain(error);
      return false;
    } finally {
      stream.cancel("not read any more", null); // Stops the agent if an answer to it failed.
      TURN.detach(outer);
    }
  }

  private void show(SessionEvent event) throws StatusException {
    switch (event.getPayloadCase()) {
      case ASSISTANT_MESSAGE_DELTA -> {
        OUT.print(event.getAssistantMessageDelta().getText());
        OUT.flush();
      }
      case PERMISSION_ASKED -> {
        PermissionAsked ask = event.getPermissionAsked();
        if (!ask.getAwaitsAnswer()) break; // The session's policy decides.
        boolean allow = ask.getSubject().equals("echo hello");
        var answer = PermissionAnswer.newBuilder().setDecision(PermissionDecision.PERMISSION_DECISION_ALLOW);
        if (allow) respond(ask.getAskId(), AskAnswer.newBuilder().setPermission(answer));
        // Whoever else watches the session may answer; if nobody does, the command is refused in the end.
        OUT.printf("[permission %s: %s] %s%n", ask.getKind(), ask.getSubject(), allow ? "allowed" : "left to others");
      }
      case TOOL_CALL_ASKED -> {
        ToolCallAsked ask = event.getToolCallAsked();
        if (!ask.getName().equals("clock")) break;
        OUT.printf("[tool %s %s]%n", ask.getName(), ask.getArgumentsJson());
        var answer = ToolResult.newBuilder().setText("%tR in UTC".formatted(LocalTime.now(ZoneOffset.UTC)));
        respond(ask.getAskId(), AskAnswer.newBuilder().setToolResult(answer));
      }
      default -> {}
    }
  }

  private void respond(String ask, AskAnswer.Builder answer) throws StatusException {
    var request = RespondRequest.newBuilder().setSessionId(session).setAskId(ask).setAnswer(answer).build();
    try {
      copilot.withDeadlineAfter(Duration.ofSeconds(10)).respond(request);
    } catch (StatusException error) {
      // Somebody else was faster, and the turn goes on.
      if (CopilotFailure.of(error).reason() != ErrorReason.ERROR_REASON_ASK_SETTLED) throw error;
    }
  }

  private void delete() {
    try {
      var request = DeleteSessionRequest.newBuilder().setSessionId(session).build();
      copilot.withDeadlineAfter(Duration.ofSeconds(10)).deleteSession(request);
      OUT.println("deleted");
    } catch (StatusException error) {
      System.err.println("not deleted:");
      explain(error);
    }
  }

  private static void explain(StatusException error) {
    CopilotFailure failure = CopilotFailure.of(error);
    System.err.println(failure.code() + ": " + failure.message());
    failure.info().ifPresent(info -> System.err.println("reason: " + info.getReason()));
    failure.delivery().ifPresent(state -> System.err.println("delivery: " + state.name().replace("DELIVERY_STATE_", "")));
    failure.turn().map(turn -> turn.getPartialContent().length()).filter(length -> length > 0)
        .ifPresent(length -> System.err.println("answer so far: " + length + " characters"));
    failure.turn().ifPresent(turn -> turn.getOpenAsksList().forEach(ask -> System.err.println("waiting for: " + ask)));
    failure.retryDelay().ifPresent(delay -> System.err.println("retry after: " + delay.toMillis() / 1000.0 + " s"));
    if (failure.reason() == ErrorReason.ERROR_REASON_TURN_TIMEOUT) {
      System.err.println("hint: give it more seconds, or ask for less");
    }
  }
}

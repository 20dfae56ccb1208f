package io.github.copilotgrpc;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.copilotgrpc.v1.DeliveryState;
import io.github.copilotgrpc.v1.ErrorReason;
import io.github.copilotgrpc.v1.TurnFailure;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;

/**
 * Why a call of copilot-grpc failed, as the details of its status say.
 *
 * <p>An error that was made on this side, such as by a connection that failed, has a status and no details.
 *
 * @param code the gRPC code
 * @param message what happened, in a line for people
 * @param reason the reason to decide by. {@code ERROR_REASON_UNSPECIFIED} if the error has none, {@code UNRECOGNIZED} if
 *     this package is older than the reason: {@code info} has its name
 * @param info the reason as it was sent, with its metadata, such as the {@code cursor} of STREAM_LAGGED
 * @param turn how far the turn had come, if the call was one of a turn
 * @param retryDelay after how long to try again, if that may help
 */
public record CopilotFailure(
    Status.Code code,
    String message,
    ErrorReason reason,
    Optional<ErrorInfo> info,
    Optional<TurnFailure> turn,
    Optional<Duration> retryDelay) {

  /** The domain of the service's reasons. A proxy's errors may have reasons of other domains; those do not count. */
  public static final String DOMAIN = "copilot-grpc";

  /** Reads what a call has thrown: a StatusException, a StatusRuntimeException, or an exception that one of them caused. */
  public static CopilotFailure of(Throwable error) {
    Optional<ErrorInfo> info = Optional.empty();
    Optional<TurnFailure> turn = Optional.empty();
    Optional<Duration> retryDelay = Optional.empty();
    com.google.rpc.Status details = StatusProto.fromThrowable(error);
    for (Any detail : details == null ? List.<Any>of() : details.getDetailsList()) {
      try {
        if (detail.is(ErrorInfo.class)) {
          info = Optional.of(detail.unpack(ErrorInfo.class)).filter(found -> found.getDomain().equals(DOMAIN));
        } else if (detail.is(TurnFailure.class)) {
          turn = Optional.of(detail.unpack(TurnFailure.class));
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryDelay = Optional.of(Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
        }
      } catch (InvalidProtocolBufferException unreadable) {
        // The code and the message still say something.
      }
    }
    ErrorReason reason = info.map(CopilotFailure::reason).orElse(ErrorReason.ERROR_REASON_UNSPECIFIED);
    Status status = Status.fromThrowable(error);
    return new CopilotFailure(status.getCode(), message(status), reason, info, turn, retryDelay);
  }

  /** Whether the agent got the prompt, and so whether sending it again can do something twice. */
  public Optional<DeliveryState> delivery() {
    return turn.map(TurnFailure::getDelivery);
  }

  /**
   * The service configuration that the repository ships, for {@code ManagedChannelBuilder.defaultServiceConfig}: which calls
   * are repeated, that calls wait for a healthy server, and how they are spread over several.
   */
  public static Map<String, ?> serviceConfig() {
    try (Reader json =
        new InputStreamReader(CopilotFailure.class.getResourceAsStream("service-config.json"), StandardCharsets.UTF_8)) {
      // Gson makes a Double of every number. Older gRPC takes no other: with the Integers of Jackson it throws.
      return new Gson().fromJson(json, new TypeToken<Map<String, ?>>() {}.getType());
    } catch (IOException unreadable) {
      throw new UncheckedIOException(unreadable);
    }
  }

  /**
   * The first line: gRPC puts the stack of a failed connection behind it. Of such a connection it says only "io exception", and
   * the cause says what it was.
   */
  private static String message(Status status) {
    String message = Objects.requireNonNullElse(status.getDescription(), "no message").lines().findFirst().orElse("");
    return status.getCause() == null ? message : message + " (" + status.getCause().getMessage() + ")";
  }

  private static ErrorReason reason(ErrorInfo info) {
    try {
      return ErrorReason.valueOf("ERROR_REASON_" + info.getReason());
    } catch (IllegalArgumentException newer) {
      return ErrorReason.UNRECOGNIZED;
    }
  }
}

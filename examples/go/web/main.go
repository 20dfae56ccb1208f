// Web serves the agent to browsers: chats as JSON over HTTP, and answers as server-sent events.
//
//	web [LISTEN [ADDRESS]]
//
//	POST /chats {"id"?}                  creates a chat, or goes on with the one of this id: {"id", "resumed"}
//	POST /chats/{id}/messages {"text"}   waits for the answer: {"text", "message_id"}
//	GET /chats/{id}/stream?text=...      the events `delta` {"text"}, and last `done` {"input_tokens", "output_tokens"} or
//	                                     `error` {"code", "reason", "message", "delivery"}
//	DELETE /chats/{id}                   deletes the chat
//	GET /                                a page that chats
//
// Other errors are HTTP statuses with {"code", "reason", "message"}. When the browser goes away, its turn is cancelled. There is
// no authentication: put this behind what has it before others can reach it.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	copilotgrpc "github.com/copilot-grpc/copilot-grpc/clients/go"
	pb "github.com/copilot-grpc/copilot-grpc/clients/go/copilot_grpc/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // Without it, the service configuration's health checks are not made.
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// callTimeout is for all calls but turns.
	callTimeout = 30 * time.Second
	// turnTimeout is for a turn, its time in the queue included.
	turnTimeout = 10 * time.Minute
	// heartbeat is less than the silence after which proxies give a connection up.
	heartbeat = 15 * time.Second
	// grace is what requests get to finish when this program is to end.
	grace = 10 * time.Second
	// maxBody is the largest request.
	maxBody = 1 << 20
)

//go:embed index.html
var page []byte

func main() {
	args := append(os.Args[1:], []string{"127.0.0.1:8080", "127.0.0.1:50051"}[min(len(os.Args)-1, 2):]...)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, args[0], args[1]); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until the context is done.
func serve(ctx context.Context, listen, address string) error {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(copilotgrpc.ServiceConfig),
		// A long turn can be silent for minutes. With this, a server that has vanished is noticed all the same.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(
			// While no server is ready, browsers get a 503, and do not wait.
			grpc.WaitForReady(false),
			// gRPC takes no message over 4 MiB otherwise, and the text of an answer has no limit.
			grpc.MaxCallRecvMsgSize(64<<20),
			// Of a larger request no copy is kept, so it is not retried.
			grpc.MaxRetryRPCBufferSize(2*maxBody),
		),
	)
	if err != nil {
		return err
	}
	defer conn.Close()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	// No WriteTimeout: an answer may take long.
	server := &http.Server{Handler: routes(pb.NewCopilotServiceClient(conn)), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if server.Shutdown(ending) != nil {
			server.Close() // Cancels the turns that still run.
		}
	})
	log.Printf("listening on http://%s", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func routes(service pb.CopilotServiceClient) http.Handler {
	web := &web{service}
	chats := http.NewServeMux()
	chats.HandleFunc("POST /chats", web.create)
	chats.HandleFunc("POST /chats/{id}/messages", web.send)
	chats.HandleFunc("GET /chats/{id}/stream", web.stream)
	chats.HandleFunc("DELETE /chats/{id}", web.remove)
	mux := http.NewServeMux()
	mux.Handle("/chats", sameOrigin(chats))
	mux.Handle("/chats/", sameOrigin(chats))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	return mux
}

// sameOrigin refuses what another site's page has the browser do: a GET of a stream sends a prompt, too.
func sameOrigin(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "none", "same-origin":
			handler.ServeHTTP(w, r)
		default:
			fail(w, status.Error(codes.PermissionDenied, "this is not for pages of other sites"))
		}
	})
}

// web is the handlers. The context of a request is done when its browser goes away, and so are the calls made with it.
type web struct {
	service pb.CopilotServiceClient
}

func (web *web) create(w http.ResponseWriter, r *http.Request) {
	var request struct{ ID string }
	if err := read(w, r, &request); err != nil {
		fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	created, err := web.service.CreateSession(ctx, &pb.CreateSessionRequest{
		SessionId:      request.ID,
		ResumeIfExists: request.ID != "",
		Labels:         map[string]string{"from": "web"},
	})
	if err != nil {
		fail(w, err)
		return
	}
	result := http.StatusCreated
	if created.Resumed {
		result = http.StatusOK
	}
	write(w, result, map[string]any{"id": created.Session.SessionId, "resumed": created.Resumed})
}

func (web *web) send(w http.ResponseWriter, r *http.Request) {
	var request struct{ Text string }
	if err := read(w, r, &request); err != nil {
		fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), turnTimeout)
	defer cancel()
	response, err := web.service.SendAndWait(ctx, &pb.SendAndWaitRequest{
		SessionId: r.PathValue("id"),
		Prompt:    &pb.Prompt{Text: request.Text},
	})
	if err != nil {
		fail(w, err)
		return
	}
	write(w, http.StatusOK, map[string]any{"text": response.Result.Content, "message_id": response.Result.MessageId})
}

// stream is always an event stream, also when it fails at once: an EventSource cannot read the body of another answer.
func (web *web) stream(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), turnTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold the events back.
	controller := http.NewResponseController(w)
	// What cannot be written any more ends with the request's context, so errors of writing need no care.
	emit := func(event string, data map[string]any) {
		text, _ := json.Marshal(data)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
		controller.Flush()
	}
	controller.Flush()
	messages, err := web.service.SendAndStream(ctx, &pb.SendAndStreamRequest{
		SessionId:         r.PathValue("id"),
		Prompt:            &pb.Prompt{Text: r.FormValue("text")},
		EventTypes:        []string{"assistant.message_delta"},
		ExcludeSubAgents:  true,
		HeartbeatInterval: durationpb.New(heartbeat),
	})
	for err == nil {
		var message *pb.SendAndStreamResponse
		if message, err = messages.Recv(); err != nil {
			break
		}
		switch payload := message.Payload.(type) {
		case *pb.SendAndStreamResponse_Event:
			emit("delta", map[string]any{"text": payload.Event.GetAssistantMessageDelta().GetText()})
		case *pb.SendAndStreamResponse_Heartbeat:
			fmt.Fprint(w, ": heartbeat\n\n")
			controller.Flush()
		case *pb.SendAndStreamResponse_Result:
			usage := payload.Result.GetUsage()
			emit("done", map[string]any{"input_tokens": usage.GetInputTokens(), "output_tokens": usage.GetOutputTokens()})
		}
	}
	if err != io.EOF {
		failure, body := describe(err)
		body["delivery"] = ""
		if failure.Turn != nil {
			body["delivery"] = strings.TrimPrefix(failure.Turn.Delivery.String(), "DELIVERY_STATE_")
		}
		emit("error", body)
	}
}

func (web *web) remove(w http.ResponseWriter, r *http.Request) {
	// Whoever asks for it and goes away wants it deleted all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), callTimeout)
	defer cancel()
	if _, err := web.service.DeleteSession(ctx, &pb.DeleteSessionRequest{SessionId: r.PathValue("id")}); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// read reads a request's JSON. No body at all is an empty object. The body is read to its end: until then net/http does not
// notice that the browser has gone.
func read(w http.ResponseWriter, r *http.Request, request any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil && len(body) > 0 {
		err = json.Unmarshal(body, request)
	}
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "the body is no JSON object of at most %d bytes: %v", maxBody, err)
	}
	return nil
}

func write(w http.ResponseWriter, code int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body)
}

// fail answers with the HTTP status that stands for a call's error.
func fail(w http.ResponseWriter, err error) {
	failure, body := describe(err)
	if failure.RetryDelay > 0 {
		w.Header().Set("Retry-After", strconv.FormatFloat(math.Ceil(failure.RetryDelay.Seconds()), 'f', 0, 64))
	}
	write(w, httpStatus(failure.Code), body)
}

// describe returns a call's error, and what the browser is told of it.
func describe(err error) (*copilotgrpc.Failure, map[string]any) {
	failure, ok := copilotgrpc.FromError(err)
	if !ok {
		failure = &copilotgrpc.Failure{Code: codes.Internal, Message: err.Error()}
	}
	reason := ""
	if failure.Reason != pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
		reason = strings.TrimPrefix(failure.Reason.String(), "ERROR_REASON_")
	}
	return failure, map[string]any{
		"code":    code.Code(failure.Code).String(),
		"reason":  reason,
		"message": failure.Message,
	}
}

// httpStatus maps codes as google/rpc/code.proto says.
func httpStatus(code codes.Code) int {
	switch code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Canceled:
		return 499 // The browser has gone; nobody reads this.
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// Chat streams the answer to one prompt, in a session of its own, and answers what the agent asks.
//
//	chat [ADDRESS [PROMPT [SECONDS]]]
//
// With COPILOT_SESSION it uses that session, and leaves it there.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
	"unicode/utf8"

	copilotgrpc "github.com/copilot-grpc/copilot-grpc/clients/go"
	pb "github.com/copilot-grpc/copilot-grpc/clients/go/copilot_grpc/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // Without it, the service configuration's health checks are not made.
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

var errNotServing = errors.New("NOT_SERVING: the service is not ready")

func main() {
	args := append(os.Args[1:], []string{"127.0.0.1:50051", "hello", "60"}[min(len(os.Args)-1, 3):]...)
	limit, err := time.ParseDuration(args[2] + "s")
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: chat [ADDRESS [PROMPT [SECONDS]]]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // A second Ctrl-C ends the program at once.
	switch err := chat(ctx, args[0], args[1], limit); {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "cancelled")
		os.Exit(130)
	case err != nil:
		explain(err)
		os.Exit(1)
	}
}

func chat(ctx context.Context, address, prompt string, limit time.Duration) (err error) {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(copilotgrpc.ServiceConfig),
		// A long turn can be silent for minutes. With this, a server that has vanished is noticed all the same.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := check(ctx, healthpb.NewHealthClient(conn)); err != nil {
		return err
	}
	service := pb.NewCopilotServiceClient(conn)
	session := os.Getenv("COPILOT_SESSION")
	if session == "" {
		if session, err = create(ctx, service); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove(ctx, service, session)) }()
	}
	return stream(ctx, service, session, prompt, limit)
}

// check asks whether the service is ready. Unlike the other calls, this one does not wait until it is.
func check(ctx context.Context, health healthpb.HealthClient) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: pb.CopilotService_ServiceDesc.ServiceName})
	if err != nil || response.Status != healthpb.HealthCheckResponse_SERVING {
		return errors.Join(errNotServing, err)
	}
	fmt.Println("health: SERVING")
	return nil
}

func create(ctx context.Context, service pb.CopilotServiceClient) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	const zone = `{"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}`
	shell := &pb.PermissionRule{Kind: "shell", Effect: pb.PermissionEffect_PERMISSION_EFFECT_ASK}
	created, err := service.CreateSession(ctx, &pb.CreateSessionRequest{
		Tools:            []*pb.Tool{{Name: "clock", Description: "Tells the time in a time zone.", ParametersJson: zone}},
		AvailableTools:   []string{"bash"},
		PermissionPolicy: &pb.PermissionPolicy{Rules: []*pb.PermissionRule{shell}},
		Labels:           map[string]string{"from": "go"},
	})
	if err == nil {
		fmt.Println("session:", created.Session.SessionId)
	}
	return created.GetSession().GetSessionId(), err
}

// remove deletes the session, also after Ctrl-C.
func remove(ctx context.Context, service pb.CopilotServiceClient, session string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err := service.DeleteSession(ctx, &pb.DeleteSessionRequest{SessionId: session})
	if err != nil {
		fmt.Println("not deleted")
		return err
	}
	fmt.Println("deleted")
	return nil
}

// stream prints the answer as it comes. The call's deadline is the turn's: when it passes, or the call is cancelled, the agent
// is stopped.
func stream(ctx context.Context, service pb.CopilotServiceClient, session, prompt string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	messages, err := service.SendAndStream(ctx, &pb.SendAndStreamRequest{SessionId: session, Prompt: &pb.Prompt{Text: prompt}})
	if err != nil {
		return err
	}
	for {
		message, err := messages.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			fmt.Println()
			return err
		}
		// The getters may be called on what is not there.
		fmt.Print(message.GetEvent().GetAssistantMessageDelta().GetText())
		if ask, answer := decide(message.GetEvent()); answer != nil {
			if err := respond(ctx, service, session, ask, answer); err != nil {
				return err
			}
		}
		if result := message.GetResult(); result != nil {
			fmt.Printf("\n(%d tokens in, %d out)\n", result.GetUsage().GetInputTokens(), result.GetUsage().GetOutputTokens())
		}
	}
}

// decide returns the answer to an ask, if the event is one that this program answers. Whoever else watches the session can
// answer the others; if nobody does, they time out (the session's ask_timeout).
func decide(event *pb.SessionEvent) (string, *pb.AskAnswer) {
	if ask := event.GetPermissionAsked(); ask.GetAwaitsAnswer() {
		if ask.Subject != "echo hello" {
			fmt.Printf("[permission %s: %s] left to others\n", ask.Kind, ask.Subject)
			return "", nil
		}
		fmt.Printf("[permission %s: %s] allowed\n", ask.Kind, ask.Subject)
		allow := &pb.PermissionAnswer{Decision: pb.PermissionDecision_PERMISSION_DECISION_ALLOW}
		return ask.AskId, &pb.AskAnswer{Answer: &pb.AskAnswer_Permission{Permission: allow}}
	}
	if ask := event.GetToolCallAsked(); ask.GetName() == "clock" {
		fmt.Printf("[tool %s %s]\n", ask.Name, ask.ArgumentsJson)
		return ask.AskId, &pb.AskAnswer{Answer: &pb.AskAnswer_ToolResult{ToolResult: clock(ask.ArgumentsJson)}}
	}
	return "", nil
}

func clock(arguments string) *pb.ToolResult {
	var call struct{ Zone string }
	broken := json.Unmarshal([]byte(arguments), &call)
	zone, unknown := time.LoadLocation(call.Zone)
	if err := errors.Join(broken, unknown); err != nil {
		return &pb.ToolResult{Content: &pb.ToolResult_Error{Error: err.Error()}}
	}
	text := time.Now().In(zone).Format("15:04") + " in " + call.Zone
	return &pb.ToolResult{Content: &pb.ToolResult_Text{Text: text}}
}

func respond(ctx context.Context, service pb.CopilotServiceClient, session, ask string, answer *pb.AskAnswer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := service.Respond(ctx, &pb.RespondRequest{SessionId: session, AskId: ask, Answer: answer})
	if failure, ok := copilotgrpc.FromError(err); ok && failure.Reason == pb.ErrorReason_ERROR_REASON_ASK_SETTLED {
		return nil // Somebody else was faster, and the turn goes on.
	}
	return err
}

// explain says why the first call failed that did, as far as that is known.
func explain(err error) {
	say := func(format string, values ...any) { fmt.Fprintf(os.Stderr, format+"\n", values...) }
	failure, ok := copilotgrpc.FromError(err)
	switch {
	case errors.Is(err, errNotServing):
		say("%v", errNotServing)
	case !ok:
		say("%v", err)
	}
	if !ok {
		return
	}
	say("%v: %s", code.Code(failure.Code), failure.Message)
	if failure.Reason != pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
		say("reason: %s", strings.TrimPrefix(failure.Reason.String(), "ERROR_REASON_"))
	}
	if turn := failure.Turn; turn != nil {
		say("delivery: %s", strings.TrimPrefix(turn.Delivery.String(), "DELIVERY_STATE_"))
		if turn.PartialContent != "" {
			say("answer so far: %d characters", utf8.RuneCountInString(turn.PartialContent))
		}
		if len(turn.OpenAsks) > 0 {
			say("waiting for: %s", strings.Join(turn.OpenAsks, ", "))
		}
	}
	if failure.RetryDelay > 0 {
		say("retry after: %g s", failure.RetryDelay.Seconds())
	}
	if failure.Reason == pb.ErrorReason_ERROR_REASON_TURN_TIMEOUT {
		say("hint: give it more seconds, or ask for less")
	}
}

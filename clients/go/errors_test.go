package copilotgrpc

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	copilotgrpcv1 "github.com/copilot-grpc/copilot-grpc/clients/go/copilot_grpc/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestAWrappedErrorIsRead(t *testing.T) {
	s, err := status.New(codes.Unavailable, "the CLI is gone").WithDetails(
		&errdetails.ErrorInfo{Domain: Domain, Reason: "TURN_INTERRUPTED", Metadata: map[string]string{"a": "b"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)},
		&copilotgrpcv1.TurnFailure{Delivery: copilotgrpcv1.DeliveryState_DELIVERY_STATE_DELIVERED},
	)
	if err != nil {
		t.Fatal(err)
	}
	failure, ok := FromError(fmt.Errorf("the prompt: %w", s.Err()))
	if !ok || failure.Code != codes.Unavailable || failure.Message != "the CLI is gone" ||
		failure.Reason != copilotgrpcv1.ErrorReason_ERROR_REASON_TURN_INTERRUPTED || failure.Metadata["a"] != "b" ||
		failure.Delivery() != copilotgrpcv1.DeliveryState_DELIVERY_STATE_DELIVERED || failure.RetryDelay != time.Second {
		t.Fatalf("%v %+v", ok, failure)
	}
	proto := s.Proto()
	same := FromConverse(&copilotgrpcv1.ConverseFailure{Code: proto.Code, Message: proto.Message, Details: proto.Details})
	if same.Reason != failure.Reason || same.Delivery() != failure.Delivery() || same.Message != failure.Message {
		t.Fatalf("%+v", same)
	}
}

func TestReasonsOfOthersAreNoReasons(t *testing.T) {
	s, err := status.New(codes.Unavailable, "no").WithDetails(&errdetails.ErrorInfo{Domain: "proxy", Reason: "DRAINING"})
	if err != nil {
		t.Fatal(err)
	}
	failure, ok := FromError(s.Err())
	if !ok || failure.Reason != 0 || failure.Delivery() != 0 {
		t.Fatalf("%v %+v", ok, failure)
	}
}

func TestErrorsOfNoCallAreNone(t *testing.T) {
	for _, err := range []error{nil, io.EOF, context.Canceled} {
		if failure, ok := FromError(err); ok {
			t.Fatalf("%v: %+v", err, failure)
		}
	}
}

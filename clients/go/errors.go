// Package copilotgrpc reads the errors of the service, and has the service configuration for its clients. The messages and the
// client itself are in the package copilotgrpcv1, in copilot_grpc/v1.
package copilotgrpc

import (
	_ "embed"
	"errors"
	"time"

	copilotgrpcv1 "github.com/copilot-grpc/copilot-grpc/clients/go/copilot_grpc/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

//go:generate go run -C generate .

// ServiceConfig is a gRPC service configuration for [google.golang.org/grpc.WithDefaultServiceConfig]: what is retried, that
// calls wait until a server is ready (so give each of them a deadline), and that they go to healthy servers. For the last,
// import google.golang.org/grpc/health as well.
//
//go:embed service-config.json
var ServiceConfig string

// Domain is the domain of the service's own errors.
const Domain = "copilot-grpc"

// Failure is why a call failed. Code and Message are always there, the rest only where the service gave it: an error that the
// library or a proxy made has nothing more.
type Failure struct {
	Code    codes.Code
	Message string

	// Reason is what to branch on. ERROR_REASON_UNSPECIFIED: the service did not say, or it is newer than this package.
	Reason copilotgrpcv1.ErrorReason
	// Metadata says more about the reason, such as `cursor` for STREAM_LAGGED.
	Metadata map[string]string
	// Turn says how far the turn came. Nil: no turn failed.
	Turn *copilotgrpcv1.TurnFailure
	// RetryDelay is the time after which trying again may help. 0: the service did not say.
	RetryDelay time.Duration
}

// FromError reads the error of a call, also one that is wrapped. It is false for errors of no call, such as nil and io.EOF.
func FromError(err error) (*Failure, bool) {
	// status.FromError would put the text of the wrapping error in the place of the service's message.
	var failed interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &failed) || failed.GRPCStatus() == nil {
		return nil, false
	}
	return fromStatus(failed.GRPCStatus()), true
}

// FromConverse reads the failure of a prompt, an answer or an abort of a Converse stream.
func FromConverse(failure *copilotgrpcv1.ConverseFailure) *Failure {
	return fromStatus(status.FromProto(&statuspb.Status{
		Code: failure.GetCode(), Message: failure.GetMessage(), Details: failure.GetDetails(),
	}))
}

// Delivery says whether the agent got the prompt, and so whether to send it again. DELIVERY_STATE_UNSPECIFIED: no turn failed.
func (f *Failure) Delivery() copilotgrpcv1.DeliveryState {
	return f.Turn.GetDelivery()
}

func fromStatus(s *status.Status) *Failure {
	failure := &Failure{Code: s.Code(), Message: s.Message()}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == Domain {
				failure.Reason = copilotgrpcv1.ErrorReason(copilotgrpcv1.ErrorReason_value["ERROR_REASON_"+detail.Reason])
				failure.Metadata = detail.Metadata
			}
		case *errdetails.RetryInfo:
			failure.RetryDelay = detail.GetRetryDelay().AsDuration()
		case *copilotgrpcv1.TurnFailure:
			failure.Turn = detail
		}
	}
	return failure
}

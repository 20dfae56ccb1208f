module github.com/copilot-grpc/copilot-grpc/examples/go

go 1.26.0

require (
	github.com/copilot-grpc/copilot-grpc/clients/go v0.1.0
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)

// The package as it is in this repository, after `go generate` there.
replace github.com/copilot-grpc/copilot-grpc/clients/go => ../../clients/go

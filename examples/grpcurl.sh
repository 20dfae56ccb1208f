#!/usr/bin/env bash
# A short session from a shell, with grpcurl: creates a session, has a prompt answered, streams an answer, reads the details of an
# error, asks for the cost, and deletes the session. The server has reflection, so grpcurl needs no files.
#
#     examples/grpcurl.sh [ADDRESS]
set -euo pipefail

address=${1:-127.0.0.1:50051}
command -v grpcurl >/dev/null || {
    echo "grpcurl is missing: install it, and put it on the PATH" >&2
    exit 1
}

# The deadline is also the turn's: when it passes, the agent is stopped.
call() {
    grpcurl -plaintext -max-time 60 -d "$2" "$address" "copilot_grpc.v1.CopilotService/$1"
}

created=$(call CreateSession '{"labels":{"from":"grpcurl"}}')
id=$(sed -n 's/.*"sessionId": "\(.*\)".*/\1/p' <<<"$created")
trap 'call DeleteSession "{\"session_id\":\"$id\"}" >/dev/null' EXIT
echo "== the session $id"

echo "== an answer"
call SendAndWait "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"hello\"}}"

echo "== an answer as it comes: its deltas, and then the result"
call SendAndStream "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"hello again\"},\"event_types\":[\"assistant.message_delta\"]}"

echo "== an error: its code, its reason, and what is wrong with which field"
call SendAndWait "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"\"}}" 2>&1 || true

echo "== what it has cost"
call GetUsage "{\"session_id\":\"$id\"}"

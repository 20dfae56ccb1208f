#!/usr/bin/env bash
# A session from a shell, with grpcurl: asks whether the service is ready, creates a session with a tool of its own, has a prompt
# answered, streams an answer, reads the details of an error, asks for the cost, answers what the agent asks while the stream goes on,
# misses a deadline, and deletes the session. The server has reflection, so grpcurl needs no files.
#
#     examples/grpcurl.sh [ADDRESS]
set -euo pipefail

address=${1:-127.0.0.1:50051}
command -v grpcurl >/dev/null || {
    echo "grpcurl is missing: install it, and put it on the PATH" >&2
    exit 1
}

# call METHOD REQUEST [SECONDS]. The deadline is also the turn's: when it passes, the agent is stopped.
call() {
    grpcurl -plaintext -max-time "${3:-60}" -d "$2" "$address" "copilot_grpc.v1.CopilotService/$1"
}

# The value of a field that is a text, from JSON with a line for each field, as grpcurl prints it.
field() {
    sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p"
}

# respond ASK_ID ANSWER: from any connection, as long as the ask is open.
respond() {
    call Respond "{\"session_id\":\"$id\",\"ask_id\":\"$1\",\"answer\":$2}" 10 >/dev/null
}

# Sends a prompt, and answers what the agent asks: the stream goes on behind the pipe, and each answer is a call of its own.
ask() {
    local line event='' ask_id=''
    call SendAndStream "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"$1\"},\"event_types\":[\"external_tool.*\",\"permission.*\"]}" |
        while IFS= read -r line; do
            printf '%s\n' "$line"
            case $line in
                '{') event='' ;;
                *'"toolCallAsked": {' | *'"permissionAsked": {') event=$line ;;
                *'"awaitsAnswer": true'*) event+=' awaited' ;;
                *'"askId": '*) ask_id=$(field askId <<<"$line") ;;
            esac
            case $event$line in
                *toolCallAsked*'"argumentsJson": '*) respond "$ask_id" "{\"tool_result\":{\"text\":\"$(date -u +%H:%M) in UTC\"}}" ;;
                # Of another command nothing is said here: whoever else watches the session may answer.
                *permissionAsked*awaited*'"subject": "echo hello"'*)
                    respond "$ask_id" '{"permission":{"decision":"PERMISSION_DECISION_ALLOW"}}'
                    ;;
            esac
        done
}

ready=$(grpcurl -plaintext -max-time 5 -d '{"service":"copilot_grpc.v1.CopilotService"}' "$address" grpc.health.v1.Health/Check)
[[ $(field status <<<"$ready") == SERVING ]] || {
    echo "NOT_SERVING: the service is not ready" >&2
    exit 1
}
echo "== the service is ready"

created=$(call CreateSession '{
    "labels": {"from": "grpcurl"},
    "tools": [{
        "name": "clock",
        "description": "Tells the time in a time zone.",
        "parameters_json": "{\"type\":\"object\",\"properties\":{\"zone\":{\"type\":\"string\"}},\"required\":[\"zone\"]}"
    }],
    "available_tools": ["bash"],
    "permission_policy": {"rules": [{"kind": "shell", "effect": "PERMISSION_EFFECT_ASK"}]}
}')
id=$(field sessionId <<<"$created")
trap 'call DeleteSession "{\"session_id\":\"$id\"}" 10 >/dev/null' EXIT
echo "== the session $id"

echo "== an answer"
call SendAndWait "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"hello\"}}"

echo "== an answer as it comes: its deltas, and then the result"
call SendAndStream "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"hello again\"},\"event_types\":[\"assistant.message_delta\"]}"

echo "== an error: its code, its reason, and what is wrong with which field"
call SendAndWait "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"\"}}" 2>&1 || true

echo "== what it has cost"
call GetUsage "{\"session_id\":\"$id\"}"

echo "== a tool of this script's, which the agent calls"
ask "tool: what time is it?"

echo "== a command, which the agent asks for"
ask "run echo hello"

echo "== a deadline of 2 seconds, which an answer of ten misses"
call SendAndWait "{\"session_id\":\"$id\",\"prompt\":{\"text\":\"long\"}}" 2 2>&1 || true

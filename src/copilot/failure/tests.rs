//! The meaning of the CLI's errors.

use super::*;

#[test]
fn rejections_are_told_apart_by_their_words() {
    let check = |code, message: &str, expected: Rejection| {
        assert_eq!(Rejection::new("session.x", code, message), expected);
    };
    let failed = |reason: &str| format!("Request session.x failed with message: {reason}");
    check(-32601, "Unhandled method session.x", Rejection::MethodMissing("session.x"));
    check(-32603, "Unhandled method session.x", Rejection::MethodMissing("session.x"));
    for reason in
        ["Session not found: s", "Session not found for sessionId: s", "Session file not found for s"]
    {
        check(-32603, &failed(reason), Rejection::SessionNotFound);
    }
    for reason in [
        "Failed to load session events: Session not found: s",
        "Session file is corrupted (line 9: unknown variant `destroy`, expected `routine` or `error`)",
    ] {
        check(-32603, &failed(reason), Rejection::SessionNotFound);
    }
    for reason in [
        "Rejected session.create request with invalid sessionId: a b",
        "Invalid provider configuration: missing field `baseUrl`",
        "Directory does not exist: /x",
        "External tool \"bash\" conflicts with a built-in tool of the same name.",
        "Provider model 'a/b' is not registered",
        r#"session construction failed: GenericFailure, Unknown built-in agent name in excludedBuiltinAgents: "nonsense"."#,
    ] {
        check(-32603, &failed(reason), Rejection::InvalidParameter(reason.into()));
    }
    let reason = "Cannot delete session s: it is currently in use by another process.";
    check(-32603, &failed(reason), Rejection::InUse);
    let reason = "External tool name clash: t already registered by another connection";
    check(-32603, &failed(reason), Rejection::ToolsTaken);
    let reason = "GitHub token validation failed: 401";
    check(-32603, &failed(reason), Rejection::Unauthenticated(reason.into()));
    check(-32002, "AUTHENTICATION_FAILED", Rejection::Connection("AUTHENTICATION_FAILED (-32002)".into()));
    check(-32603, &failed("Nothing to compact."), Rejection::NothingToCompact);
    check(-32603, "boom", Rejection::Internal("boom".into()));
}

/// The failures of providers: what happened, the CLI 1.0.102's message about a turn and about a compaction (observed, or from
/// the provider's documents), and the cause.
fn providers() -> Vec<(&'static str, Option<i32>, AgentCause)> {
    use AgentCause::*;
    vec![
        // OpenAI; vLLM; llama.cpp, two versions.
        (
            "400 This model's maximum context length is 128000 tokens. However, your messages resulted in 130001 tokens.",
            Some(400),
            ContextLimit,
        ),
        (
            "400 This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the \
             messages, 1000 in the completion). Please reduce the length of the messages or completion.",
            Some(400),
            ContextLimit,
        ),
        (
            "400 the request exceeds the available context size. try increasing the context size",
            Some(400),
            ContextLimit,
        ),
        (
            "400 request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
            Some(400),
            ContextLimit,
        ),
        (
            "400 The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
            Some(400),
            ContextLimit,
        ),
        ("400 Input tokens exceed the configured limit of 272000 tokens.", Some(400), ContextLimit),
        ("400 Your input exceeds the context window of this model.", Some(400), ContextLimit),
        // Anthropic; Gemini; GitHub; xAI.
        ("400 prompt is too long: 204031 tokens > 200000 maximum", Some(400), ContextLimit),
        (
            "400 input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            Some(400),
            ContextLimit,
        ),
        (
            "400 The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            Some(400),
            ContextLimit,
        ),
        ("400 prompt token count of 140000 exceeds the limit of 128000", Some(400), ContextLimit),
        (
            "400 This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
            Some(400),
            ContextLimit,
        ),
        ("413 Request Entity Too Large", Some(413), ContextLimit),
        // llama.cpp in mid-stream: the CLI tries again, in vain.
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 13.76 seconds) Last error: \
             This model's maximum context length is 4096 tokens",
            None,
            ContextLimit,
        ),
        // Azure; OpenAI, twice; Anthropic; Alibaba.
        (
            "400 The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please \
             modify your prompt and retry.",
            Some(400),
            ContentFiltered,
        ),
        ("400 Your request was rejected as a result of our safety system.", Some(400), ContentFiltered),
        (
            "400 Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            Some(400),
            ContentFiltered,
        ),
        ("400 Output blocked by content filtering policy", Some(400), ContentFiltered),
        ("400 Input data may contain inappropriate content.", Some(400), ContentFiltered),
        // OpenAI, twice; DeepSeek; Anthropic.
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 52.38 seconds) Last error: \
             429 You exceeded your current quota, please check your plan and billing details.",
            Some(429),
            Quota,
        ),
        ("400 Billing hard limit has been reached", Some(400), Quota),
        ("402 Insufficient Balance", Some(402), Quota),
        ("400 Your credit balance is too low to access the Anthropic API.", Some(400), Quota),
        // Gemini uses the words for a rate, too; OpenAI.
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 52.38 seconds) Last error: \
             429 You exceeded your current quota. Please retry in 34.07s.",
            Some(429),
            RateLimit,
        ),
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 53.86 seconds) Last error: \
             429 Rate limit reached for requests",
            Some(429),
            RateLimit,
        ),
        ("401 Incorrect API key provided", Some(401), Auth),
        // The provider fails, or its answer makes no sense.
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 14.40 seconds) Last error: \
             500 The server had an error",
            Some(500),
            Unavailable,
        ),
        ("502 Bad Gateway", Some(502), Unavailable),
        ("503 overloaded", Some(503), Unavailable),
        ("504 Gateway Timeout", Some(504), Unavailable),
        ("529 Overloaded", Some(529), Unavailable),
        ("408 Request timeout", Some(408), Unavailable),
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 16.14 seconds) Last error: \
             409 conflict",
            Some(409),
            Unavailable,
        ),
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 5.00 seconds) Last error: \
             Failed native model HTTP request: error sending request for url (http://127.0.0.1:1/v1/chat/completions): \
             client error (SendRequest): connection error: Connection reset by peer (os error 104) [ECONNRESET]",
            None,
            Unavailable,
        ),
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 5.00 seconds) Last error: \
             Failed to parse chat-completions stream chunk: EOF while parsing a value at line 1 column 23",
            None,
            Unavailable,
        ),
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 14.74 seconds) Last error: \
             The server had an error while processing your request",
            None,
            Unavailable,
        ),
        // Nobody is there.
        (
            "Could not connect to local model provider at http://127.0.0.1:1/v1.\n  Check that the service is running and the \
             port is correct.",
            None,
            Unavailable,
        ),
        (
            "Could not connect to provider at http://127.1.2.3:1/v1.\n  Check the URL and your network connection.",
            None,
            Unavailable,
        ),
        // A compaction's message, which says no more.
        (
            "Failed to get response from the AI model; retried 5 times (total retry wait time: 5.00 seconds)",
            None,
            Unavailable,
        ),
        ("400 Invalid value for temperature", Some(400), Other),
        ("404 The model `x` does not exist", Some(404), Other),
        ("422 Unprocessable Entity", Some(422), Other),
    ]
}

#[test]
fn the_failures_of_a_provider_are_told_apart_in_turns_and_in_compactions() {
    for (message, status, expected) in providers() {
        let error_type = if status == Some(429) { "rate_limit" } else { "query" };
        let error = SessionError {
            error_type: error_type.into(),
            message: message.into(),
            status_code: status,
            ..SessionError::default()
        };
        assert_eq!(AgentFailure::from(&error).cause, expected, "in a turn: {message}");
        let rethrown =
            if GIVEN_UP.iter().any(|words| message.starts_with(words)) { "" } else { "host-rethrow: " };
        let refusal = format!("Request session.history.compact failed with message: {rethrown}{message}");
        match Rejection::new("session.history.compact", -32603, &refusal) {
            Rejection::Agent(failure) => {
                let AgentFailure { cause, message: said, status_code, .. } = failure;
                assert_eq!(
                    (cause, said.as_str(), status_code),
                    (expected, message, status),
                    "in a compaction"
                );
            }
            other => panic!("{other:?}: {message}"),
        }
    }
}

#[test]
fn failures_of_a_turn_are_told_apart_by_type_and_status() {
    let check = |error_type: &str, status_code, message: &str, expected| {
        let error = SessionError {
            error_type: error_type.into(),
            message: message.into(),
            status_code,
            ..SessionError::default()
        };
        assert_eq!(AgentFailure::from(&error).cause, expected);
    };
    check("authentication", Some(401), "", AgentCause::Auth);
    check("query", Some(403), "", AgentCause::Auth);
    check("quota", None, "", AgentCause::Quota);
    check("query", Some(402), "", AgentCause::Quota);
    check("rate_limit", Some(429), "", AgentCause::RateLimit);
    check("context_limit", None, "", AgentCause::ContextLimit);
    // The CLI's own words, before it asks the provider, and after.
    let budget =
        "Request exceeds the model's prompt budget after reserving output (3334692 tokens; limit 128000).";
    check("query", None, budget, AgentCause::ContextLimit);
    let rejected = "The provider rejected the prompt as too long, but automatic recovery could not reduce it. Reduce \
                    context before retrying.";
    check("query", None, rejected, AgentCause::ContextLimit);
    check("query", Some(400), "400 boom", AgentCause::Other);
    check("query", None, "No GitHub OAuth token or Copilot HMAC key provided", AgentCause::Auth);
    let full = "Failed to persist session events: GenericFailure, Failed to append to JSONL file /x/events.jsonl: I/O \
                error: No space left on device (os error 28)";
    check("persistence", None, full, AgentCause::Storage);
}

#[test]
fn a_full_disk_is_one_in_all_words_of_the_cli() {
    for words in [
        "Request session.create failed with message: session construction failed: ENOSPC: No space left on device (os \
         error 28)",
        "Request session.name.set failed with message: Failed to save workspace to /x/workspace.yaml: Error: ENOSPC: No \
         space left on device (os error 28)",
        "Request sessions.fork failed with message: session save failed: GenericFailure, Failed to append to JSONL file \
         /x/events.jsonl: No space left on device (os error 28)",
        // Inside of a success, of `session.delete`.
        "session close failed: GenericFailure, Failed to append to JSONL file /x/events.jsonl: Failed to back up \
         recoverable JSONL at /x/events.jsonl.backup: No space left on device (os error 28)",
        "session construction failed: EDQUOT: Disk quota exceeded (os error 122)",
    ] {
        assert!(matches!(Rejection::new("m", -32603, words), Rejection::Storage(_)), "{words}");
    }
}

#[test]
fn what_the_cli_does_not_say_of_retries_in_vain_its_events_do() {
    let event = |status: &str, error: &str| {
        let error = Value::from(error);
        format!(
            r#"{{"sessionId":"s","event":{{"type":"model.model_call_failure","data":{{"kind":"model_call_failure",
            "modelCall":{{"model":"m",{status}"error":{error},"transport":"http"}},"requestMessages":"[]"}}}}}}"#
        )
    };
    let given_up =
        "Failed to get response from the AI model; retried 5 times (total retry wait time: 5.00 seconds)";
    let refusal = || match Rejection::new("session.history.compact", -32603, given_up) {
        Rejection::Agent(failure) => failure,
        other => panic!("{other:?}"),
    };
    let check = |event: String, expected, words: &str| {
        let AgentFailure { cause, message, .. } =
            refusal().in_words_of(AgentFailure::of_call(event.as_bytes()).unwrap());
        assert_eq!((cause, message), (expected, format!("{given_up} Last error: {words}")));
    };
    let too_large =
        r#"{"message":"Request too large","type":"request_too_large","code":"request_too_large"}"#;
    check(event(r#""status":413,"#, too_large), AgentCause::ContextLimit, "Request too large");
    let quota =
        r#"{"message":"You have nothing left.","type":"insufficient_quota","code":"insufficient_quota"}"#;
    check(event(r#""status":429,"#, quota), AgentCause::Quota, "You have nothing left.");
    let filtered = r#"{"message":"No.","code":"content_filter"}"#;
    check(event(r#""status":400,"#, filtered), AgentCause::ContentFiltered, "No.");
    check(event("", r#""a connection was reset""#), AgentCause::Unavailable, "a connection was reset");
    check(event(r#""status":503,"#, r#""503 overloaded""#), AgentCause::Unavailable, "503 overloaded");
    assert_eq!(AgentFailure::of_call(b"{}"), None);
    // A failure that says more by itself stays as it is.
    let plain = AgentFailure { status_code: Some(400), ..AgentFailure::other("400 no") };
    assert_eq!(plain.clone().in_words_of(AgentFailure::other("else")), plain);
}

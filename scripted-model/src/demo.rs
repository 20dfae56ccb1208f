//! The script of the `demo-model` binary: something to see for each thing that a client can do with a model.

use std::time::Duration;

use serde_json::json;

use crate::{Reply, Request};

/// Answers like a model that has nothing to say.
///
/// - A prompt that starts with the word `long` gets about 400 words in about 10 seconds: time to watch a
///   stream, to miss a deadline, to abort.
/// - A prompt that starts with the word `tool` gets a call of a harmless tool, if the request offers one.
/// - The prompts `run echo hello` and `run whoami` get a call of the tool `bash` with that command: something to permit or to refuse.
///   Other commands are not called: where the demo is tried, they may be allowed.
/// - The result of a tool is quoted.
/// - Any other prompt is echoed.
pub fn demo(request: &Request) -> Reply {
    if let Some(result) = request.tool_result() {
        let beginning: String = result.chars().take(500).collect();
        return speak(format!("The tool said: {beginning}"));
    }
    let prompt = request.prompt();
    let first = prompt.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let rest = prompt[first.len()..].trim();
    match first.to_lowercase().as_str() {
        "long" => long(),
        "tool" => tool(&request.tools),
        "run" if COMMANDS.contains(&rest) && request.tools.iter().any(|tool| tool == "bash") => run(rest),
        _ => speak(format!(
            "You said: {prompt}. I am a demo model: I echo. Try a prompt that starts with `long` or `tool`."
        )),
    }
}

fn speak(text: String) -> Reply {
    Reply::text(text).every(Duration::from_millis(20))
}

fn long() -> Reply {
    // Ten words each, and no two alike: a lost or repeated chunk shows.
    let sentences: Vec<_> =
        (1..=40).map(|n| format!("{n}. This is sentence {n} of a rather long answer.\n")).collect();
    Reply::text(sentences.concat()).every(Duration::from_millis(25))
}

/// What does no harm.
const COMMANDS: &[&str] = &["echo hello", "whoami"];

fn run(command: &str) -> Reply {
    Reply::tool_call("bash", json!({"command": command, "description": "what the prompt says"}))
}

fn tool(offered: &[String]) -> Reply {
    if offered.is_empty() {
        return speak(
            "This session has no tools, so I cannot call one: `available_tools` in CreateSession names those \
             that it has."
                .to_owned(),
        );
    }
    let here = std::env::current_dir().unwrap_or_default();
    let known = [
        // That of the examples.
        ("clock", json!({"zone": "UTC"})),
        ("bash", json!({"command": "echo hello from a tool", "description": "say hello"})),
        ("glob", json!({"pattern": "*"})),
        ("view", json!({"path": here})),
    ];
    match known.into_iter().find(|(name, _)| offered.iter().any(|tool| tool == name)) {
        Some((name, arguments)) => Reply::tool_call(name, arguments),
        None => speak(format!(
            "This session's tools are {}. I know how to call bash, clock, glob and view.",
            offered.join(", ")
        )),
    }
}

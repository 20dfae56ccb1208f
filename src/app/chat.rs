//! `chat`: a conversation in the terminal, over gRPC as any other client's.

use std::io::{IsTerminal, Write};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::outcome::Result;
use crate::grpc::client::{Client, Piece, Target};

/// The arguments of `chat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// The server.
    pub server: Target,
    /// The session to go on with. Without one a new session is made, and deleted at the end.
    pub session: Option<String>,
    /// The model of a new session.
    pub model: Option<String>,
    /// The prompt. Without one, lines are read from standard input.
    pub prompt: Option<String>,
}

/// Runs the conversation. Ctrl-C stops the agent and ends the conversation.
pub async fn chat(chat: Chat) -> Result {
    let client = Client::connect(&chat.server).await?;
    let (session, own) = match chat.session {
        Some(session) => (session, false),
        None => (client.create_session(chat.model).await?, true),
    };
    let talk = async {
        match chat.prompt {
            Some(prompt) => answer(&client, &session, &prompt).await,
            None => talk(&client, &session).await,
        }
    };
    let ended = tokio::select! {
        ended = talk => ended,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    // Not an error of the command: the answer was shown, also where the server goes away before the session is deleted.
    if own && let Err(error) = client.delete_session(&session).await {
        writeln!(std::io::stderr(), "the session {session} could not be deleted: {error}")?;
    }
    ended
}

/// Sends each line of standard input as a prompt. At a terminal, an answer that fails does not end the conversation.
async fn talk(client: &Client, session: &str) -> Result {
    let terminal = std::io::stdin().is_terminal();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        if terminal {
            show("> ")?;
        }
        let Some(line) = lines.next_line().await? else { return Ok(()) };
        if line.trim().is_empty() {
            continue;
        }
        match answer(client, session, &line).await {
            Err(error) if terminal => writeln!(std::io::stderr(), "{error}")?,
            ended => ended?,
        }
    }
}

/// Shows an answer as it comes.
async fn answer(client: &Client, session: &str, prompt: &str) -> Result {
    let mut answer = client.send(session, prompt).await?;
    loop {
        match answer.next().await? {
            Piece::Text(text) => show(&text)?,
            Piece::Tool(name) => show(&format!("[{name}]\n"))?,
            Piece::End => return show("\n"),
        }
    }
}

fn show(text: &str) -> Result {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

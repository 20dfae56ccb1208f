//! What the CLI has written of a session: it may tell of an event before that is on the disk.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::Duration,
};

use memchr::memmem;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::warn;

use super::session::Session;
use crate::{
    backend::Link,
    session::{cursor::Cursor, turn::TurnCause},
};

/// The file of a session's folder to which the CLI appends its events.
const EVENTS: &str = "events.jsonl";

/// How much of its end is looked at first: an event's id is near the end of its line, and the last line is mostly the one.
const TAIL: u64 = 16 * 1024;

/// How long the CLI may take: one that stores its sessions elsewhere never does it.
const LIMIT: Duration = Duration::from_secs(5);

/// The pause before it is looked again whether it has.
const PAUSE: Duration = Duration::from_millis(10);

impl Session {
    /// Waits until the CLI has written what it has told. It mostly has; on a busy machine it can be tens of milliseconds late (observed on
    /// 1.0.102's native form). A CLI that is killed in between has never told it, and an archive or a copy that is made in between does
    /// not have it.
    ///
    /// # Errors
    /// If the CLI has ended before it had.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(in crate::session) async fn until_written(&self, link: &Link) -> Result<(), TurnCause> {
        let since = Instant::now();
        while !self.is_written().await {
            // What it has written, it wrote before its end.
            if link.loss().is_some() && !self.is_written().await {
                return Err(TurnCause::Interrupted(
                    "the Copilot CLI ended before it had written what it told".into(),
                ));
            }
            if since.elapsed() > LIMIT {
                warn!(session = %self.id(), "the CLI does not write what it tells: if it is killed, that is lost");
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Whether the CLI has written all events that it has told of and that it stores. Also true where its files are not to be seen.
    async fn is_written(&self) -> bool {
        let last = self.lock().cursor.clone();
        let last = last.and_then(|cursor| Cursor::event_id(cursor.as_str(), self.id()));
        let (Some(event_id), Some(folder)) = (last, self.folder_to_be()) else { return true };
        let looked = spawn_blocking(move || has_event(&folder.join(EVENTS), &event_id));
        // What cannot be read cannot be waited for.
        !matches!(looked.await, Ok(Ok(false)))
    }
}

/// Whether an event is in a file of events, looked for from its end. Blocks.
fn has_event(path: &Path, event_id: &str) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // At the first turn there may be nothing yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut said = Vec::new();
    for tail in [TAIL, u64::MAX] {
        said.clear();
        file.seek(SeekFrom::Start(length.saturating_sub(tail)))?;
        file.read_to_end(&mut said)?;
        if memmem::find(&said, event_id.as_bytes()).is_some() {
            return Ok(true);
        }
        if tail >= length {
            break;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_found_wherever_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |id: &str| format!("{{\"type\":\"x\",\"data\":{{}},\"id\":\"{id}\"}}\n");
        let check =
            |id: &str, expected: bool| assert_eq!(has_event(file.path(), id).unwrap(), expected, "{id}");
        check("first", false);
        assert!(!has_event(&file.path().with_extension("none"), "first").unwrap());
        let filling = line("other").repeat(2000);
        std::fs::write(file.path(), [line("first"), filling.clone(), line("last")].concat()).unwrap();
        assert!(filling.len() as u64 > TAIL);
        check("first", true);
        check("last", true);
        check("none", false);
    }
}

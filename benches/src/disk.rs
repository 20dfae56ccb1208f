//! What a CLI leaves of its sessions on its disk: a folder each, with a history to which each turn adds.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
};

/// What a turn of the real CLI adds, in bytes.
pub const TURN: usize = 5 << 10;

/// The homes of sessions.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// The one of the CLI that this process is, if it has a home.
    pub fn of_env() -> Option<Self> {
        Some(Self::new(std::env::var_os("COPILOT_HOME")?.into()))
    }

    /// The one of a CLI with this home.
    pub fn new(home: PathBuf) -> Self {
        Self(home.join("session-state"))
    }

    /// Whether there is something of a session.
    pub fn has(&self, session: &str) -> bool {
        self.0.join(session).exists()
    }

    /// Adds a turn with so many bytes, of text that does not compress to nothing, whose last event has this id.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&self, session: &str, turn: u64, last: &str, bytes: usize) -> io::Result<()> {
        let folder = self.0.join(session);
        fs::create_dir_all(&folder)?;
        let mut line = format!(r#"{{"type":"assistant.message","id":"{turn}","last":"{last}","data":{{"content":""#);
        let mut number = turn + 1;
        while line.len() < bytes {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            line.push_str(WORDS[(number >> 33) as usize % WORDS.len()]);
        }
        line.push_str("\"}}\n");
        File::options()
            .create(true)
            .append(true)
            .open(folder.join("events.jsonl"))?
            .write_all(line.as_bytes())
    }

    /// Removes a session.
    pub fn remove(&self, session: &str) {
        // There may be none.
        let _ = fs::remove_dir_all(self.0.join(session));
    }
}

const WORDS: [&str; 16] = [
    "answer ", "bytes ", "copy ", "disk ", "event ", "folder ", "gone ", "home ", "it ", "journal ",
    "keeps ", "line ", "message ", "node ", "of ", "prompt ",
];

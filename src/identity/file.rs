//! Reads a small file that is looked at again and again.

use std::{path::Path, time::Duration};

use tokio::io::AsyncReadExt as _;

/// How often a file is looked at.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) async fn read(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("the file cannot be read: {error}");
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    let beyond = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(beyond).read_to_end(&mut bytes).await.map_err(unreadable)?;
    if bytes.len() > limit { Err(format!("the file is longer than {} KiB", limit >> 10)) } else { Ok(bytes) }
}

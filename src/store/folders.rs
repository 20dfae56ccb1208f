//! What is stored of sessions' folders: a head, and chunks that are read in order.

use super::{
    connection::Failure,
    door::Store,
    error::Error,
    pool::Work,
    record::{FolderHead, FolderWrite, Uid},
    statement::Statement,
};

impl Store {
    /// What is stored of a session's folder, if anything.
    pub async fn folder_head(&self, uid: Uid) -> Result<Option<FolderHead>, Error> {
        let head =
            Statement::new("SELECT seq, chunks, bytes, manifest FROM folders WHERE uid = $1").with(uid.0);
        let Some(mut row) = self.runner.read_one(head).await? else { return Ok(None) };
        Ok(Some(FolderHead {
            seq: row.int()?,
            chunks: row.int()?,
            bytes: row.int()?,
            manifest: row.bytes()?,
        }))
    }

    /// The chunks of a session's folder in order, from the last snapshot on; none if nothing is stored of it.
    pub async fn folder(&self, uid: Uid) -> Result<Vec<Vec<u8>>, Error> {
        let size = Statement::new("SELECT bytes FROM folders WHERE uid = $1").with(uid.0);
        let Some(mut row) = self.runner.read_one(size).await? else { return Ok(Vec::new()) };
        let bytes = usize::try_from(row.int()?).unwrap_or_default();
        let chunks = Statement::new("SELECT data FROM chunks WHERE uid = $1 ORDER BY seq").with(uid.0);
        let rows = self.runner.read_much(chunks, bytes).await?;
        rows.into_iter().map(|mut row| row.bytes()).collect()
    }
}

/// Writes a chunk of a folder, in a transaction.
pub(super) async fn write(work: &mut Work, uid: Uid, write: FolderWrite) -> Result<(), Failure> {
    let seq = write.after.map_or(1, |after| after + 1);
    let bytes = i64::try_from(write.data.len()).unwrap_or(i64::MAX);
    let head = match write.after {
        None => Statement::new(
            "INSERT INTO folders (uid, seq, chunks, bytes, manifest) VALUES ($1, $2, 1, $3, $4) ON CONFLICT (uid) DO NOTHING",
        ),
        Some(_) if write.is_snapshot => Statement::new(
            "UPDATE folders SET seq = $2, chunks = 1, bytes = $3, manifest = $4 WHERE uid = $1 AND seq = $5",
        ),
        Some(_) => Statement::new(
            "UPDATE folders SET seq = $2, chunks = chunks + 1, bytes = bytes + $3, manifest = $4 WHERE uid = $1 AND seq = $5",
        ),
    };
    let mut head = head.with(uid.0).with(seq).with(bytes).with(write.manifest);
    if let Some(after) = write.after {
        head.push(after);
    }
    if work.execute(&head).await? == 0 {
        return Err(Error::Conflict.into());
    }
    if write.is_snapshot && write.after.is_some() {
        work.execute(&Statement::new("DELETE FROM chunks WHERE uid = $1").with(uid.0)).await?;
    }
    let chunk = Statement::new("INSERT INTO chunks (uid, seq, data) VALUES ($1, $2, $3)");
    work.execute(&chunk.with(uid.0).with(seq).with(write.data)).await?;
    Ok(())
}

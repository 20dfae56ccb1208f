//! Sealed credentials of sessions. They are opaque here.

use super::{
    door::Store,
    error::Error,
    fence::why_refused,
    record::{Ownership, Uid},
    statement::Statement,
};

impl Store {
    /// Stores a session's sealed credentials, or deletes them.
    ///
    /// # Errors
    /// [`Error::Gone`] if the session has been deleted, [`Error::Fenced`] if it has changed hands.
    pub async fn set_credentials(&self, ownership: Ownership, sealed: Option<&[u8]>) -> Result<(), Error> {
        let Ownership { uid, fence, .. } = ownership;
        let statement = match sealed {
            Some(sealed) => Statement::new(
                "INSERT INTO credentials (uid, sealed) SELECT uid, $3 FROM sessions WHERE uid = $1 AND fence = $2 \
                 ON CONFLICT (uid) DO UPDATE SET sealed = excluded.sealed",
            )
            .with(uid.0)
            .with(fence)
            .with(sealed.to_vec()),
            None => Statement::new(
                "DELETE FROM credentials WHERE uid = $1 AND EXISTS (SELECT 1 FROM sessions WHERE uid = $1 AND fence = $2)",
            )
            .with(uid.0)
            .with(fence),
        };
        let must_write = sealed.is_some();
        self.runner
            .write(0, async move |mut work| {
                if work.execute(&statement).await? == 0 && must_write {
                    return Err(why_refused(&mut work, uid).await?.into());
                }
                Ok(())
            })
            .await
    }

    /// A session's sealed credentials.
    pub async fn credentials(&self, uid: Uid) -> Result<Option<Vec<u8>>, Error> {
        let read = Statement::new("SELECT sealed FROM credentials WHERE uid = $1").with(uid.0);
        let row = self.runner.read_one(read).await?;
        row.map(|mut row| row.bytes()).transpose()
    }
}

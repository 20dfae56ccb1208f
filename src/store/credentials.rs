//! Sealed credentials of sessions. They are opaque here.

use super::{door::Store, error::Error, record::Uid, statement::Statement};

impl Store {
    /// Stores a session's sealed credentials, or deletes them.
    ///
    /// # Errors
    /// [`Error::Gone`] if the session has been deleted.
    pub async fn set_credentials(&self, uid: Uid, sealed: Option<&[u8]>) -> Result<(), Error> {
        let statement = match sealed {
            Some(sealed) => Statement::new(
                "INSERT INTO credentials (uid, sealed) VALUES ($1, $2) ON CONFLICT (uid) DO UPDATE SET sealed = excluded.sealed",
            )
            .with(uid.0)
            .with(sealed.to_vec()),
            None => Statement::new("DELETE FROM credentials WHERE uid = $1").with(uid.0),
        };
        self.runner.write(0, async move |mut work| work.execute(&statement).await).await?;
        Ok(())
    }

    /// A session's sealed credentials.
    pub async fn credentials(&self, uid: Uid) -> Result<Option<Vec<u8>>, Error> {
        let read = Statement::new("SELECT sealed FROM credentials WHERE uid = $1").with(uid.0);
        let row = self.runner.read_one(read).await?;
        row.map(|mut row| row.bytes()).transpose()
    }
}

//! Folders of sessions that have gone to another disk, or are deleted. Whoever has the disk removes them, and says so.

use super::{door::Store, error::Error, statement::Statement};

/// A folder of a session that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The disk that it is on.
    pub disk: String,
    /// The CLI in whose home it is.
    pub home: String,
    /// What the CLI calls the session.
    pub cli_id: String,
}

impl Store {
    /// Notes that a folder is to be removed.
    pub async fn leave_copy(&self, copy: &Copy) -> Result<(), Error> {
        let insert = Statement::new(
            "INSERT INTO copies (disk, home, cli_id) VALUES ($1, $2, $3) ON CONFLICT (disk, home, cli_id) DO NOTHING",
        );
        self.run(insert, copy).await
    }

    /// The folders on a disk that are to be removed, at most so many.
    pub async fn copies(&self, disk: &str, limit: usize) -> Result<Vec<Copy>, Error> {
        let select = Statement::new("SELECT disk, home, cli_id FROM copies WHERE disk = $1 LIMIT $2");
        let select = select.with(disk).with(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.runner.read(select).await?.into_iter();
        rows.map(|mut row| Ok(Copy { disk: row.text()?, home: row.text()?, cli_id: row.text()? })).collect()
    }

    /// Notes that a folder is removed, or is one of a session's again.
    pub async fn forget_copy(&self, copy: &Copy) -> Result<(), Error> {
        let delete = Statement::new("DELETE FROM copies WHERE disk = $1 AND home = $2 AND cli_id = $3");
        self.run(delete, copy).await
    }

    async fn run(&self, statement: Statement, copy: &Copy) -> Result<(), Error> {
        let statement =
            statement.with(copy.disk.as_str()).with(copy.home.as_str()).with(copy.cli_id.as_str());
        self.runner.write(0, async move |mut work| work.execute(&statement).await).await?;
        Ok(())
    }
}

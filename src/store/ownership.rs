//! Who owns a session: taken, looked up, let go. [`lease`](super::lease) tells the rules.
//!
//! In a file of SQLite all sessions are its one server's: nothing is taken there, and no fence ever changes.

use super::{
    door::Store,
    error::Error,
    fence::why_refused,
    neighbours::NodeRecord,
    nodes,
    record::{Incarnation, Ownership, SessionRecord},
    runner::{Engine, no_lease},
    sessions::{COLUMNS, record},
    statement::{Row, Statement},
};

/// What has come of taking a session.
#[derive(Debug, Clone)]
pub enum Taken {
    /// It is this process's.
    Ours {
        /// The session.
        record: Box<SessionRecord>,
        /// Whether another process had it, which is dead.
        was_left: bool,
    },
    /// It is another process's, which lives.
    Theirs(Box<NodeRecord>),
    /// There is none.
    Gone,
}

/// Who owns a session.
#[derive(Debug, Clone)]
pub enum Owner {
    /// There is no session.
    Gone,
    /// Nobody, or a process that is dead.
    Nobody,
    /// This process.
    Us,
    /// Another process, which lives.
    Node(Box<NodeRecord>),
}

impl Store {
    /// The nodes that live, or have lately, this one included, ordered by name.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        self.runner.read(nodes::known(self.runner.engine)).await?.into_iter().map(nodes::record).collect()
    }

    /// Takes a session for this process, unless another one has it that lives.
    ///
    /// # Errors
    /// [`Error::Unavailable`] also if this process has no lease.
    pub async fn take(&self, tenant: &str, id: &str) -> Result<Taken, Error> {
        if self.runner.engine == Engine::Sqlite {
            let found = self.find(tenant, id).await?;
            return Ok(
                found.map_or(Taken::Gone, |record| Taken::Ours { record: record.into(), was_left: false })
            );
        }
        let life = self.runner.life()?;
        let own = &self.runner.incarnation;
        // First, so that what the other statement sees of nodes is not older than what it sees of the session.
        let hold = Statement::new("SELECT uid FROM sessions WHERE tenant = $1 AND id = $2 FOR UPDATE");
        let hold = hold.with(tenant).with(id);
        let take = self.runner.engine.timed(&format!(
            "WITH old AS (SELECT uid, node, incarnation FROM sessions WHERE tenant = $1 AND id = $2) \
             UPDATE sessions s SET node = $3, incarnation = $4, fence = s.fence + 1 FROM old \
             WHERE s.uid = old.uid \
             AND (old.node = '' OR old.node = $3 AND old.incarnation = $4 OR NOT EXISTS (SELECT 1 FROM nodes n \
             WHERE n.node = old.node AND n.incarnation = old.incarnation AND n.lease_until > {{now}})) \
             AND EXISTS (SELECT 1 FROM nodes n WHERE n.node = $3 AND n.incarnation = $4 AND n.lease_until > {{now}}) \
             RETURNING {COLUMNS}, CASE WHEN old.node = '' OR old.node = $3 AND old.incarnation = $4 THEN 0 ELSE 1 END"
        ));
        let take = take.with(tenant).with(id).with(own.node.as_str()).with(own.number);
        // Who owns it may let it go, or die, between the two.
        for _ in 0..3 {
            let (hold, take) = (hold.clone(), take.clone());
            let taken = self.runner.write(0, async move |mut work| {
                work.begin().await?;
                work.row(&hold).await?;
                let taken = work.row(&take).await?;
                work.commit().await?;
                Ok(taken)
            });
            if let Some(row) = taken.await? {
                let (mut record, was_left) = record_and_rest(row)?;
                record.ownership.life = life;
                // It may be another's by now, if the lease was over in between.
                if !self.holds(record.ownership) {
                    return Err(no_lease());
                }
                return Ok(Taken::Ours { record: record.into(), was_left });
            }
            match self.owner_of(tenant, id).await? {
                Owner::Gone => return Ok(Taken::Gone),
                Owner::Node(node) => return Ok(Taken::Theirs(node)),
                Owner::Nobody | Owner::Us => {}
            }
        }
        Err(Error::Unavailable { problem: "it does not take this server for alive".into() })
    }

    /// Who owns a session.
    pub async fn owner_of(&self, tenant: &str, id: &str) -> Result<Owner, Error> {
        let columns = nodes::COLUMNS;
        let look = self.runner.engine.timed(&format!(
            "SELECT s.node, s.incarnation, {columns} FROM sessions s \
             LEFT JOIN nodes n ON n.node = s.node AND n.incarnation = s.incarnation AND n.lease_until > {{now}} \
             WHERE s.tenant = $1 AND s.id = $2"
        ));
        let Some(mut row) = self.runner.read_one(look.with(tenant).with(id)).await? else {
            return Ok(Owner::Gone);
        };
        let owner = Incarnation { node: row.text()?, number: row.int()? };
        Ok(match nodes::maybe_record(row)? {
            _ if owner == self.runner.incarnation => Owner::Us,
            Some(node) => Owner::Node(node.into()),
            None => Owner::Nobody,
        })
    }

    /// Lets a session go, so that any process may take it.
    ///
    /// # Errors
    /// [`Error::Gone`] if it has been deleted, [`Error::Fenced`] if it has changed hands.
    pub async fn let_go(&self, ownership: Ownership) -> Result<(), Error> {
        if self.runner.engine == Engine::Sqlite {
            return Ok(());
        }
        let let_go = Statement::new(
            "UPDATE sessions SET node = '', incarnation = 0, fence = fence + 1 WHERE uid = $1 AND fence = $2",
        );
        let let_go = let_go.with(ownership.uid.0).with(ownership.fence);
        self.runner
            .write(0, async move |mut work| match work.execute(&let_go).await? {
                0 => Err(why_refused(&mut work, ownership.uid).await?.into()),
                _ => Ok(()),
            })
            .await
    }
}

fn record_and_rest(row: Row) -> Result<(SessionRecord, bool), Error> {
    let mut row = row;
    let record = record(&mut row)?;
    Ok((record, row.bool()?))
}

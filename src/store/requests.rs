//! Request ids: which process has a request, how far it has come, and what came of it.

use super::{
    connection::Failure,
    door::Store,
    error::Error,
    pool::Work,
    record::{Begun, Incarnation, RETENTION, RequestKey, RequestRecord, RequestState, Scope, Time, Uid},
    runner::Engine,
    statement::{Row, Statement, micros},
};

impl Store {
    /// Begins a request, as this process's, unless it is known already. Of several that begin one at once, one is first. `note` is
    /// its result as long as it has none.
    pub async fn begin(
        &self,
        key: &RequestKey,
        fingerprint: i64,
        note: Option<&str>,
    ) -> Result<Begun, Error> {
        let (engine, incarnation) = (self.runner.engine, self.runner.incarnation.clone());
        let insert = engine
            .timed(
                "INSERT INTO requests (scope, tenant, id, fingerprint, state, node, incarnation, result, update_time) \
                 VALUES ($1, $2, $3, $4, 0, $5, $6, $8, {now}) \
                 ON CONFLICT (scope, tenant, id) DO UPDATE SET fingerprint = excluded.fingerprint, state = 0, \
                 node = excluded.node, incarnation = excluded.incarnation, result = excluded.result, update_time = excluded.update_time \
                 WHERE requests.update_time < {now} - $7",
            )
            .with(scope(key))
            .with(key.tenant.as_str())
            .with(key.id.as_str())
            .with(fingerprint)
            .with(incarnation.node.as_str())
            .with(incarnation.number)
            .with(micros(RETENTION))
            .with(note);
        let select = selection(engine, key);
        self.runner
            .write(0, async move |mut work| {
                // What is known may be forgotten before it is read; then this one is first after all.
                for _ in 0..3 {
                    if work.execute(&insert).await? > 0 {
                        return Ok(Begun::First);
                    }
                    if let Some(row) = work.row(&select).await? {
                        return Ok(Begun::Known(record(row, engine, &incarnation)?));
                    }
                }
                Err(Failure::Busy("a request comes and goes".into()))
            })
            .await
    }

    /// Takes a request over from a process that is gone: back to [`RequestState::Accepted`], and this process's. False: it has
    /// ended, or has been taken over by another.
    pub async fn take_over(&self, key: &RequestKey, from: &Incarnation) -> Result<bool, Error> {
        let own = &self.runner.incarnation;
        let update = self.runner.engine.timed(
            "UPDATE requests SET state = 0, node = $4, incarnation = $5, update_time = {now} \
             WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $6 AND incarnation = $7 AND state < 2",
        );
        let update = keyed(update, key)
            .with(own.node.as_str())
            .with(own.number)
            .with(from.node.as_str())
            .with(from.number);
        self.runner.write(0, async move |mut work| Ok(work.execute(&update).await? > 0)).await
    }

    /// Closes a request that its process has left behind after it was sent. False: it has ended, or is not that process's any more.
    pub async fn close_left(
        &self,
        key: &RequestKey,
        from: &Incarnation,
        result: &str,
    ) -> Result<bool, Error> {
        let update = self.runner.engine.timed(
            "UPDATE requests SET state = $4, result = $5, update_time = {now} \
             WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $6 AND incarnation = $7 AND state = 1",
        );
        let update = keyed(update, key)
            .with(number(RequestState::Failed))
            .with(result)
            .with(from.node.as_str())
            .with(from.number);
        self.runner.write(0, async move |mut work| Ok(work.execute(&update).await? > 0)).await
    }

    /// Notes that a request of this process may reach a CLI from now on.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is known no more, [`Error::Conflict`] if another process has taken it over, or it has ended.
    pub async fn sent(&self, key: &RequestKey) -> Result<(), Error> {
        self.advance(key, RequestState::Sent, None).await
    }

    /// Notes how a request of this process has ended.
    ///
    /// # Errors
    /// Those of [`sent`](Self::sent).
    pub async fn end(
        &self,
        key: &RequestKey,
        state: RequestState,
        result: Option<&str>,
    ) -> Result<(), Error> {
        self.advance(key, state, result).await
    }

    /// Forgets a request of this process.
    pub async fn forget(&self, key: &RequestKey) -> Result<(), Error> {
        let own = &self.runner.incarnation;
        let delete = Statement::new(
            "DELETE FROM requests WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $4 AND incarnation = $5",
        );
        let delete = keyed(delete, key).with(own.node.as_str()).with(own.number);
        self.runner.write(0, async move |mut work| work.execute(&delete).await).await?;
        Ok(())
    }

    /// What is known of a request.
    pub async fn request(&self, key: &RequestKey) -> Result<Option<RequestRecord>, Error> {
        let row = self.runner.read_one(selection(self.runner.engine, key)).await?;
        row.map(|row| record(row, self.runner.engine, &self.runner.incarnation)).transpose()
    }

    async fn advance(
        &self,
        key: &RequestKey,
        state: RequestState,
        result: Option<&str>,
    ) -> Result<(), Error> {
        let update = advance(self.runner.engine, &self.runner.incarnation, key, state, result);
        let key = key.clone();
        self.runner
            .write(0, async move |mut work| {
                if work.execute(&update).await? > 0 {
                    return Ok(());
                }
                Err(match exists(&mut work, &key).await? {
                    true => Error::Conflict.into(),
                    false => Error::Gone.into(),
                })
            })
            .await
    }
}

/// Notes how far a request of this process has come, if it has not ended.
pub(super) fn advance(
    engine: Engine,
    own: &Incarnation,
    key: &RequestKey,
    state: RequestState,
    result: Option<&str>,
) -> Statement {
    let update = engine.timed(
        "UPDATE requests SET state = $4, result = CASE WHEN $4 = 1 THEN result ELSE $5 END, update_time = {now} \
         WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $6 AND incarnation = $7 AND state < 2",
    );
    let update = keyed(update, key).with(number(state)).with(result);
    update.with(own.node.as_str()).with(own.number)
}

/// Whether a request is known.
pub(super) async fn exists(work: &mut Work, key: &RequestKey) -> Result<bool, Failure> {
    let select = Statement::new("SELECT 1 FROM requests WHERE scope = $1 AND tenant = $2 AND id = $3");
    Ok(work.row(&keyed(select, key)).await?.is_some())
}

fn selection(engine: Engine, key: &RequestKey) -> Statement {
    let select = engine.timed(
        "SELECT r.fingerprint, r.state, r.node, r.incarnation, r.result, r.update_time, \
         CASE WHEN n.incarnation = r.incarnation AND n.lease_until > {now} THEN 1 ELSE 0 END \
         FROM requests r LEFT JOIN nodes n ON n.node = r.node \
         WHERE r.scope = $1 AND r.tenant = $2 AND r.id = $3 AND r.update_time >= {now} - $4",
    );
    keyed(select, key).with(micros(RETENTION))
}

fn record(mut row: Row, engine: Engine, own: &Incarnation) -> Result<RequestRecord, Error> {
    let fingerprint = row.int()?;
    let state = match row.int()? {
        0 => RequestState::Accepted,
        1 => RequestState::Sent,
        2 => RequestState::Succeeded,
        3 => RequestState::Failed,
        other => {
            return Err(Error::Corrupt { problem: format!("a request is in the unknown state {other}") });
        }
    };
    let owner = Incarnation { node: row.text()?, number: row.int()? };
    let result = row.maybe_text()?;
    let update_time = Time(row.int()?);
    let has_lease = row.bool()?;
    let is_ours = owner == *own;
    // An SQLite file has one server at a time, which is this one.
    let is_alive = is_ours || has_lease && engine == Engine::Postgres;
    Ok(RequestRecord { fingerprint, state, owner, is_alive, is_ours, result, update_time })
}

/// With the values of a key, `$1` to `$3`.
fn keyed(statement: Statement, key: &RequestKey) -> Statement {
    statement.with(scope(key)).with(key.tenant.as_str()).with(key.id.as_str())
}

fn scope(key: &RequestKey) -> i64 {
    match key.scope {
        Scope::Create => 0,
        Scope::Session(Uid(uid)) => uid,
    }
}

fn number(state: RequestState) -> i64 {
    match state {
        RequestState::Accepted => 0,
        RequestState::Sent => 1,
        RequestState::Succeeded => 2,
        RequestState::Failed => 3,
    }
}

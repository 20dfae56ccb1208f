//! Request ids: which process has a request, how far it has come, and what came of it.

use super::{
    connection::Failure,
    door::Store,
    error::Error,
    fence::why_refused,
    pool::Work,
    record::{
        Begun, Ended, Incarnation, Ownership, RETENTION, RequestKey, RequestRecord, RequestState, Scope,
        Time, Uid,
    },
    runner::Engine,
    statement::{Row, Statement, Value, micros},
};

impl Store {
    /// Begins a request, as this process's, unless it is known already. Of several that begin one at once, one is first. `note` is
    /// its result as long as it has none; `prompt` is what is to be sent, where that is not the caller's to send again.
    pub async fn begin(
        &self,
        key: &RequestKey,
        fingerprint: i64,
        note: Option<&str>,
        prompt: Option<Vec<u8>>,
    ) -> Result<Begun, Error> {
        let bytes = prompt.as_ref().map_or(0, Vec::len);
        let (engine, incarnation) = (self.runner.engine, self.runner.incarnation.clone());
        let insert = engine
            .timed(
                "INSERT INTO requests (scope, tenant, id, fingerprint, state, node, incarnation, result, prompt, create_time, update_time) \
                 VALUES ($1, $2, $3, $4, 0, $5, $6, $8, $9, {now}, {now}) \
                 ON CONFLICT (scope, tenant, id) DO UPDATE SET fingerprint = excluded.fingerprint, state = 0, \
                 node = excluded.node, incarnation = excluded.incarnation, result = excluded.result, message_id = NULL, \
                 prompt = excluded.prompt, create_time = excluded.create_time, update_time = excluded.update_time \
                 WHERE requests.update_time < {now} - $7",
            )
            .with(scope(key))
            .with(key.tenant.as_str())
            .with(key.id.as_str())
            .with(fingerprint)
            .with(incarnation.node.as_str())
            .with(incarnation.number)
            .with(micros(RETENTION))
            .with(note)
            .with(Value::Bytes(prompt));
        let select = selection(engine, key);
        self.runner
            .write(bytes, async move |mut work| {
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
            "UPDATE requests SET state = $4, result = $5, prompt = NULL, update_time = {now} \
             WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $6 AND incarnation = $7 AND state = 1",
        );
        let update = keyed(update, key)
            .with(number(RequestState::Failed))
            .with(result)
            .with(from.node.as_str())
            .with(from.number);
        self.runner.write(0, async move |mut work| Ok(work.execute(&update).await? > 0)).await
    }

    /// Notes that a request of this process, in a session that it owns, may reach a CLI from now on.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is known no more, [`Error::Conflict`] if another process has taken it over, or it has ended,
    /// [`Error::Fenced`] if the session has changed hands.
    pub async fn sent(&self, key: &RequestKey, ownership: Ownership) -> Result<(), Error> {
        let Incarnation { node, number } = &self.runner.incarnation;
        let update = self.runner.engine.timed(
            "UPDATE requests SET state = 1, update_time = {now} \
             WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $4 AND incarnation = $5 AND state < 2 \
             AND EXISTS (SELECT 1 FROM sessions WHERE uid = $1 AND fence = $6)",
        );
        let update = keyed(update, key).with(node.as_str()).with(*number).with(ownership.fence);
        let key = key.clone();
        self.runner
            .write(0, async move |mut work| {
                if work.execute(&update).await? > 0 {
                    return Ok(());
                }
                let is_ours = Statement::new("SELECT 1 FROM sessions WHERE uid = $1 AND fence = $2");
                if work.row(&is_ours.with(ownership.uid.0).with(ownership.fence)).await?.is_none() {
                    return Err(why_refused(&mut work, ownership.uid).await?.into());
                }
                Err(why_not_advanced(&mut work, &key).await?.into())
            })
            .await
    }

    /// Notes how a request of this process has ended.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is known no more, [`Error::Conflict`] if another process has taken it over, or it has ended.
    pub async fn end(&self, ended: &Ended) -> Result<(), Error> {
        let (engine, incarnation, ended) =
            (self.runner.engine, self.runner.incarnation.clone(), ended.clone());
        self.runner.write(0, async move |mut work| end(&mut work, engine, &incarnation, &ended).await).await
    }

    /// Forgets a request of this process, unless there is a session that it has made.
    pub async fn forget(&self, key: &RequestKey) -> Result<(), Error> {
        let own = &self.runner.incarnation;
        let delete = Statement::new(
            "DELETE FROM requests WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $4 AND incarnation = $5 \
             AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.tenant = $2 AND s.id = requests.result AND s.request = $3)",
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

    /// A session's requests that are known, the latest first: those after this one, by the time it was made and its id.
    pub async fn requests(
        &self,
        uid: Uid,
        after: Option<(Time, &str)>,
        limit: usize,
    ) -> Result<Vec<(String, RequestRecord)>, Error> {
        let engine = self.runner.engine;
        let mut select = engine.timed(&format!(
            "SELECT r.id, {COLUMNS} {FROM} WHERE r.scope = $1 AND r.update_time >= {{now}} - $2"
        ));
        select = select.with(uid.0).with(micros(RETENTION));
        if let Some((time, id)) = after {
            select.add(" AND (r.create_time, r.id) < ($3, $4)");
            select = select.with(time.0).with(id);
        }
        let limit = select.push(i64::try_from(limit).unwrap_or(i64::MAX));
        select.add(&format!(" ORDER BY r.create_time DESC, r.id DESC LIMIT ${limit}"));
        let rows = self.runner.read(select).await?;
        rows.into_iter().map(|row| self.identified(row)).collect()
    }

    /// A session's request by what the CLI calls its message, which is known when it has ended.
    pub async fn request_of_message(
        &self,
        uid: Uid,
        message_id: &str,
    ) -> Result<Option<(String, RequestRecord)>, Error> {
        let select = self.runner.engine.timed(&format!(
            "SELECT r.id, {COLUMNS} {FROM} WHERE r.scope = $1 AND r.message_id = $2 AND r.update_time >= {{now}} - $3 LIMIT 1"
        ));
        let row = self.runner.read_one(select.with(uid.0).with(message_id).with(micros(RETENTION))).await?;
        row.map(|row| self.identified(row)).transpose()
    }

    /// The requests of a session that a process other than this one has left open, in the order in which they were made.
    pub async fn left_requests(&self, uid: Uid) -> Result<Vec<(String, RequestRecord)>, Error> {
        let own = &self.runner.incarnation;
        let select = self.runner.engine.timed(&format!(
            "SELECT r.id, {COLUMNS} {FROM} WHERE r.scope = $1 AND r.state < 2 AND r.update_time >= {{now}} - $2 \
             AND (r.node <> $3 OR r.incarnation <> $4) ORDER BY r.create_time, r.id"
        ));
        let select = select.with(uid.0).with(micros(RETENTION)).with(own.node.as_str()).with(own.number);
        self.runner.read(select).await?.into_iter().map(|row| self.identified(row)).collect()
    }

    /// Sessions, by row, tenant and id, with requests that dead processes have left open: sent, or still to be sent. Those after this row,
    /// at most so many.
    pub async fn left_sessions(&self, after: Uid, limit: usize) -> Result<Vec<(Uid, String, String)>, Error> {
        let select = self.runner.engine.timed(
            "SELECT DISTINCT s.uid, s.tenant, s.id FROM requests r JOIN sessions s ON s.uid = r.scope \
             WHERE r.state < 2 AND (r.state = 1 OR r.prompt IS NOT NULL) AND r.update_time >= {now} - $1 \
             AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = r.node AND n.incarnation = r.incarnation AND n.lease_until > {now}) \
             AND s.uid > $3 ORDER BY s.uid LIMIT $2",
        );
        let select =
            select.with(micros(RETENTION)).with(i64::try_from(limit).unwrap_or(i64::MAX)).with(after.0);
        let rows = self.runner.read(select).await?;
        rows.into_iter().map(|mut row| Ok((Uid(row.int()?), row.text()?, row.text()?))).collect()
    }

    /// What is to be sent for a request, if that is stored.
    pub async fn prompt(&self, key: &RequestKey) -> Result<Option<Vec<u8>>, Error> {
        let select = Statement::new(
            "SELECT prompt FROM requests WHERE scope = $1 AND tenant = $2 AND id = $3 AND prompt IS NOT NULL",
        );
        let row = self.runner.read_one(keyed(select, key)).await?;
        row.map(|mut row| row.bytes()).transpose()
    }

    fn identified(&self, mut row: Row) -> Result<(String, RequestRecord), Error> {
        let id = row.text()?;
        Ok((id, record(row, self.runner.engine, &self.runner.incarnation)?))
    }
}

/// Notes how a request of this process has ended. It may be noted so already, where the answer to an earlier write was lost. What was to
/// be sent is needed no more.
///
/// # Errors
/// As of [`Store::end`].
pub(super) async fn end(
    work: &mut Work,
    engine: Engine,
    own: &Incarnation,
    ended: &Ended,
) -> Result<(), Failure> {
    let update = engine.timed(
        "UPDATE requests SET state = $4, result = $5, message_id = $8, prompt = NULL, update_time = {now} \
         WHERE scope = $1 AND tenant = $2 AND id = $3 AND node = $6 AND incarnation = $7 AND state < 2",
    );
    let update = keyed(update, &ended.key).with(number(ended.state)).with(ended.result.as_deref());
    let update = update.with(own.node.as_str()).with(own.number).with(ended.message_id.as_deref());
    if work.execute(&update).await? > 0 || is_ended_so(work, own, ended).await? {
        return Ok(());
    }
    Err(why_not_advanced(work, &ended.key).await?.into())
}

async fn is_ended_so(work: &mut Work, own: &Incarnation, ended: &Ended) -> Result<bool, Failure> {
    let look = Statement::new(
        "SELECT 1 FROM requests WHERE scope = $1 AND tenant = $2 AND id = $3 AND state = $4 \
         AND COALESCE(result, '') = $5 AND node = $6 AND incarnation = $7",
    );
    let look = keyed(look, &ended.key).with(number(ended.state));
    let look =
        look.with(ended.result.as_deref().unwrap_or_default()).with(own.node.as_str()).with(own.number);
    Ok(work.row(&look).await?.is_some())
}

async fn why_not_advanced(work: &mut Work, key: &RequestKey) -> Result<Error, Failure> {
    Ok(if exists(work, key).await? { Error::Conflict } else { Error::Gone })
}

/// Whether a request is known.
async fn exists(work: &mut Work, key: &RequestKey) -> Result<bool, Failure> {
    let select = Statement::new("SELECT 1 FROM requests WHERE scope = $1 AND tenant = $2 AND id = $3");
    Ok(work.row(&keyed(select, key)).await?.is_some())
}

/// The columns of a record, in the order in which [`record`] reads them; `{now}` is yet to be filled in.
const COLUMNS: &str = "r.fingerprint, r.state, r.node, r.incarnation, r.result, r.message_id, \
     CASE WHEN r.prompt IS NULL THEN 0 ELSE 1 END, r.create_time, r.update_time, \
     CASE WHEN n.incarnation = r.incarnation AND n.lease_until > {now} THEN 1 ELSE 0 END";

/// Where they are.
const FROM: &str = "FROM requests r LEFT JOIN nodes n ON n.node = r.node";

fn selection(engine: Engine, key: &RequestKey) -> Statement {
    let select = engine.timed(
        &format!("SELECT {COLUMNS} {FROM} WHERE r.scope = $1 AND r.tenant = $2 AND r.id = $3 AND r.update_time >= {{now}} - $4"),
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
    let message_id = row.maybe_text()?;
    let has_prompt = row.bool()?;
    let (create_time, update_time) = (Time(row.int()?), Time(row.int()?));
    let has_lease = row.bool()?;
    let is_ours = owner == *own;
    // An SQLite file has one server at a time, which is this one.
    let is_alive = is_ours || has_lease && engine == Engine::Postgres;
    Ok(RequestRecord {
        fingerprint,
        state,
        owner,
        is_alive,
        is_ours,
        result,
        message_id,
        has_prompt,
        create_time,
        update_time,
    })
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

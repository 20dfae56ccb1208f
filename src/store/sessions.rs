//! Sessions' records: made, found, changed, deleted.

use std::collections::BTreeMap;

use super::{
    connection::Failure,
    door::Store,
    error::Error,
    fence::why_refused,
    folders,
    pool::Work,
    record::{Changes, Facts, Incarnation, Ownership, SessionRecord, Settling, Time, Uid},
    requests,
    statement::{Row, Statement},
};

/// The columns of a record, of the table `s`, in the order in which [`record`] reads them.
pub(super) const COLUMNS: &str = "s.uid, s.tenant, s.id, s.owner, s.cli_id, s.request, s.profile, s.model, s.reasoning_effort, s.title, \
     s.working_directory, s.labels, s.settings, s.has_message, s.home, s.home_disk, s.usage, s.bytes, s.create_time, \
     s.update_time, s.node, s.incarnation, s.fence";

impl Store {
    /// Makes a session's record. It is this process's.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a session with this id.
    pub async fn create(&self, tenant: &str, id: &str, facts: &Facts, now: Time) -> Result<Ownership, Error> {
        let (tenant, id, labels) = (tenant.to_owned(), id.to_owned(), facts.labels.clone());
        let insert = insertion(&tenant, &id, facts, now, self.owner());
        let life = self.runner.life()?;
        self.runner
            .write(0, async move |mut work| {
                // One statement is a transaction by itself.
                if !labels.is_empty() {
                    work.begin().await?;
                }
                let Some(mut row) = work.row(&insert).await? else {
                    if !labels.is_empty() {
                        work.roll_back().await?;
                    }
                    return Err(Error::Exists.into());
                };
                let uid = Uid(row.int()?);
                if !labels.is_empty() {
                    work.execute(&labelling(uid, &tenant, &id, &labels, now)).await?;
                    work.commit().await?;
                }
                Ok(Ownership { uid, fence: FIRST_FENCE, life })
            })
            .await
    }

    /// A session's record.
    pub async fn find(&self, tenant: &str, id: &str) -> Result<Option<SessionRecord>, Error> {
        let find =
            Statement::new(format!("SELECT {COLUMNS} FROM sessions s WHERE s.tenant = $1 AND s.id = $2"));
        let row = self.runner.read_one(find.with(tenant).with(id)).await?;
        row.map(|mut row| record(&mut row)).transpose()
    }

    /// The record of the session that the CLI knows by this id.
    pub async fn find_by_cli_id(&self, cli_id: &str) -> Result<Option<SessionRecord>, Error> {
        let find = Statement::new(format!("SELECT {COLUMNS} FROM sessions s WHERE s.cli_id = $1 LIMIT 1"));
        let row = self.runner.read_one(find.with(cli_id)).await?;
        row.map(|mut row| record(&mut row)).transpose()
    }

    /// How many sessions a tenant has.
    pub async fn count(&self, tenant: &str) -> Result<u64, Error> {
        let count = Statement::new("SELECT count(*) FROM sessions WHERE tenant = $1").with(tenant);
        let row = self.runner.read_one(count).await?;
        Ok(row.map(|mut row| row.int()).transpose()?.unwrap_or_default().unsigned_abs())
    }

    /// Changes a session's record.
    ///
    /// # Errors
    /// [`Error::Gone`] if the session has been deleted, [`Error::Fenced`] if it has changed hands.
    pub async fn change(&self, ownership: Ownership, changes: &Changes) -> Result<(), Error> {
        self.settle(ownership, &Settling { changes: changes.clone(), ..Settling::default() }).await
    }

    /// Writes what a turn leaves behind, all of it or nothing.
    ///
    /// # Errors
    /// [`Error::Gone`] if the session has been deleted, [`Error::Fenced`] if it has changed hands, [`Error::Conflict`] if its folder
    /// or request is another process's meanwhile.
    pub async fn settle(&self, ownership: Ownership, settling: &Settling) -> Result<(), Error> {
        let settling = settling.clone();
        let bytes = settling.folder.as_ref().map_or(0, |folder| folder.data.len());
        let (engine, incarnation) = (self.runner.engine, self.runner.incarnation.clone());
        self.runner
            .write(bytes, async move |mut work| {
                if settling.is_one_statement() {
                    return change(&mut work, ownership, &settling.changes).await;
                }
                work.begin().await?;
                // The session first: those that write to one session wait for each other here.
                change(&mut work, ownership, &settling.changes).await?;
                if let Some(folder) = settling.folder {
                    folders::write(&mut work, ownership.uid, folder).await?;
                }
                if let Some(ended) = settling.request {
                    match requests::end(&mut work, engine, &incarnation, &ended).await {
                        // It is no more after a day, which a turn may take.
                        Ok(()) | Err(Failure::Refused(Error::Gone)) => {}
                        Err(failure) => return Err(failure),
                    }
                }
                work.commit().await
            })
            .await
    }

    /// Gives a session the ids of another of its tenant, which is deleted: at once, or not at all.
    ///
    /// # Errors
    /// [`Error::Gone`] if one of them has been deleted.
    pub async fn replace(&self, old: Uid, new: Uid) -> Result<(), Error> {
        self.runner
            .write(0, async move |mut work| {
                work.begin().await?;
                let delete =
                    Statement::new("DELETE FROM sessions WHERE uid = $1 RETURNING id, cli_id").with(old.0);
                let Some(mut row) = work.row(&delete).await? else { return Err(Error::Gone.into()) };
                let (id, cli_id) = (row.text()?, row.text()?);
                work.execute(&Statement::new("DELETE FROM requests WHERE scope = $1").with(old.0)).await?;
                let rename = Statement::new("UPDATE sessions SET id = $2, cli_id = $3 WHERE uid = $1");
                if work.execute(&rename.with(new.0).with(id.as_str()).with(cli_id.as_str())).await? == 0 {
                    return Err(Error::Gone.into());
                }
                let rename = Statement::new("UPDATE labels SET id = $2 WHERE uid = $1");
                work.execute(&rename.with(new.0).with(id.as_str())).await?;
                work.commit().await
            })
            .await
    }

    /// Deletes a session with all that belongs to it: folder, credentials, requests. False: it was not there.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it has changed hands.
    pub async fn delete(&self, ownership: Ownership) -> Result<bool, Error> {
        let Ownership { uid, fence, .. } = ownership;
        self.runner
            .write(0, async move |mut work| {
                work.begin().await?;
                let session = Statement::new("DELETE FROM sessions WHERE uid = $1 AND fence = $2");
                let was_there = work.execute(&session.with(uid.0).with(fence)).await? > 0;
                if !was_there && matches!(why_refused(&mut work, uid).await?, Error::Fenced) {
                    work.roll_back().await?;
                    return Err(Error::Fenced.into());
                }
                work.execute(&Statement::new("DELETE FROM requests WHERE scope = $1").with(uid.0)).await?;
                work.commit().await?;
                Ok(was_there)
            })
            .await
    }
}

impl Settling {
    /// Whether it is all or nothing by itself, as most are that nobody waits for.
    fn is_one_statement(&self) -> bool {
        self.changes.labels.is_none() && self.folder.is_none() && self.request.is_none()
    }
}

/// Reads a row of [`COLUMNS`].
pub(super) fn record(row: &mut Row) -> Result<SessionRecord, Error> {
    let uid = Uid(row.int()?);
    let mut record = SessionRecord {
        ownership: Ownership { uid, fence: 0, life: 0 },
        node: None,
        tenant: row.text()?,
        id: row.text()?,
        facts: Facts {
            owner: row.text()?,
            cli_id: row.text()?,
            request: row.text()?,
            profile: row.text()?,
            model: row.text()?,
            reasoning_effort: row.text()?,
            title: row.text()?,
            working_directory: row.text()?,
            labels: read_labels(&row.text()?)?,
            settings: row.text()?,
            has_message: row.bool()?,
            home: row.text()?,
            home_disk: row.text()?,
            usage: row.text()?,
            bytes: row.int()?,
        },
        create_time: Time(row.int()?),
        update_time: Time(row.int()?),
    };
    let owner = Incarnation { node: row.text()?, number: row.int()? };
    record.node = Some(owner).filter(|owner| !owner.node.is_empty());
    record.ownership.fence = row.int()?;
    Ok(record)
}

/// The fence of a session that was just made.
const FIRST_FENCE: i64 = 1;

fn insertion(tenant: &str, id: &str, facts: &Facts, now: Time, owner: Option<&Incarnation>) -> Statement {
    let insert = Statement::new(
        "INSERT INTO sessions (tenant, id, owner, cli_id, request, profile, model, reasoning_effort, title, working_directory, labels, \
         settings, has_message, home, home_disk, usage, bytes, create_time, update_time, node, incarnation, fence) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22) \
         ON CONFLICT (tenant, id) DO NOTHING RETURNING uid",
    );
    insert
        .with(tenant)
        .with(id)
        .with(facts.owner.as_str())
        .with(facts.cli_id.as_str())
        .with(facts.request.as_str())
        .with(facts.profile.as_str())
        .with(facts.model.as_str())
        .with(facts.reasoning_effort.as_str())
        .with(facts.title.as_str())
        .with(facts.working_directory.as_str())
        .with(write_labels(&facts.labels).as_str())
        .with(facts.settings.as_str())
        .with(facts.has_message)
        .with(facts.home.as_str())
        .with(facts.home_disk.as_str())
        .with(facts.usage.as_str())
        .with(facts.bytes)
        .with(now.0)
        .with(now.0)
        .with(owner.map_or("", |owner| owner.node.as_str()))
        .with(owner.map_or(0, |owner| owner.number))
        .with(FIRST_FENCE)
}

/// Writes a session's labels where they are searched. There is at least one.
fn labelling(
    uid: Uid,
    tenant: &str,
    id: &str,
    labels: &BTreeMap<String, String>,
    created: Time,
) -> Statement {
    let insert = Statement::new("INSERT INTO labels (tenant, id, create_time, uid, name, value) VALUES ");
    let mut insert = insert.with(tenant).with(id).with(created.0).with(uid.0);
    for (name, value) in labels {
        let comma = if insert.len() > 4 { ", " } else { "" };
        let name = insert.push(name.as_str());
        let value = insert.push(value.as_str());
        insert.add(&format!("{comma}($1, $2, $3, $4, ${name}, ${value})"));
    }
    insert
}

/// Changes a session's record, in a transaction if there are labels.
async fn change(work: &mut Work, ownership: Ownership, changes: &Changes) -> Result<(), Failure> {
    let Ownership { uid, fence, .. } = ownership;
    let labels = changes.labels.as_ref().map(write_labels);
    let update = Statement::new(
        "UPDATE sessions SET owner = COALESCE($2, owner), profile = COALESCE($3, profile), model = COALESCE($4, model), \
         reasoning_effort = COALESCE($5, reasoning_effort), title = COALESCE($6, title), \
         working_directory = COALESCE($7, working_directory), labels = COALESCE($8, labels), \
         settings = COALESCE($9, settings), has_message = COALESCE($10, has_message), home = COALESCE($11, home), \
         home_disk = COALESCE($12, home_disk), usage = COALESCE($13, usage), bytes = COALESCE($14, bytes), \
         update_time = CASE WHEN $15 > update_time THEN $15 ELSE update_time END \
         WHERE uid = $1 AND fence = $16 RETURNING tenant, id, create_time",
    );
    let update = update
        .with(uid.0)
        .with(changes.owner.as_deref())
        .with(changes.profile.as_deref())
        .with(changes.model.as_deref())
        .with(changes.reasoning_effort.as_deref())
        .with(changes.title.as_deref())
        .with(changes.working_directory.as_deref())
        .with(labels.as_deref())
        .with(changes.settings.as_deref())
        .with(changes.has_message.map(i64::from))
        .with(changes.home.as_deref())
        .with(changes.home_disk.as_deref())
        .with(changes.usage.as_deref())
        .with(changes.bytes)
        .with(changes.update_time.map(|time| time.0))
        .with(fence);
    let Some(mut row) = work.row(&update).await? else { return Err(why_refused(work, uid).await?.into()) };
    if let Some(labels) = &changes.labels {
        let (tenant, id, created) = (row.text()?, row.text()?, Time(row.int()?));
        work.execute(&Statement::new("DELETE FROM labels WHERE uid = $1").with(uid.0)).await?;
        if !labels.is_empty() {
            work.execute(&labelling(uid, &tenant, &id, labels, created)).await?;
        }
    }
    Ok(())
}

fn write_labels(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).unwrap_or_else(|_| "{}".into())
}

fn read_labels(text: &str) -> Result<BTreeMap<String, String>, Error> {
    serde_json::from_str(text)
        .map_err(|_| Error::Corrupt { problem: "a session's labels are no JSON".into() })
}

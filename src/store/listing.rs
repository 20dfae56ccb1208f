//! Lists of sessions, page by page.

use super::{
    door::Store,
    error::Error,
    record::{Order, Query, SessionRecord},
    sessions::{COLUMNS, record},
    statement::{Statement, Value},
};

impl Store {
    /// A page of a tenant's sessions.
    pub async fn list(&self, query: &Query) -> Result<Vec<SessionRecord>, Error> {
        let rows = self.runner.read(statement(query)).await?;
        rows.into_iter().map(|mut row| record(&mut row)).collect()
    }

    /// All tenants that have sessions, in no order.
    pub async fn tenants(&self) -> Result<Vec<String>, Error> {
        let rows = self.runner.read(Statement::new("SELECT DISTINCT tenant FROM sessions")).await?;
        rows.into_iter().map(|mut row| row.text()).collect()
    }
}

/// The statement of a query. It asks one index for a page in order: that of the sessions by time or owner, or that of the first
/// label, which has the sessions' creation times and ids, too.
fn statement(query: &Query) -> Statement {
    let mut statement = Statement::new(format!("SELECT {COLUMNS} FROM sessions s"));
    let (column, is_by_creation) = match query.order {
        Order::Newest | Order::Oldest => ("create_time", true),
        Order::LatestChange | Order::EarliestChange => ("update_time", false),
    };
    let mut labels = query.labels.iter();
    let first = labels.next();
    if first.is_some() {
        statement.add(" JOIN labels l ON l.uid = s.uid");
    }
    let by = if first.is_some() && is_by_creation { "l" } else { "s" };
    let mut conditions = Conditions { statement, are_none: true };
    match first {
        Some((name, value)) => {
            conditions.and("l.tenant = ", query.tenant.as_str());
            conditions.and("l.name = ", name.as_str());
            conditions.and("l.value = ", value.as_str());
        }
        None => conditions.and("s.tenant = ", query.tenant.as_str()),
    }
    for (name, value) in labels {
        let name = conditions.statement.push(name.as_str());
        let value = conditions.statement.push(value.as_str());
        // By the primary key of labels, before the session is read.
        conditions.add(&format!(
            "EXISTS (SELECT 1 FROM labels x WHERE x.tenant = l.tenant AND x.name = ${name} AND x.value = ${value} \
             AND x.create_time = l.create_time AND x.id = l.id)"
        ));
    }
    if let Some(owner) = &query.owner {
        conditions.and("s.owner = ", owner.as_str());
    }
    if let Some(profile) = &query.profile {
        conditions.and("s.profile = ", profile.as_str());
    }
    if query.is_owned {
        conditions.add("s.node <> ''");
    }
    // Where the index has the time, it is asked for the range.
    let created = if first.is_some() { "l" } else { "s" };
    for (table, column, range) in
        [(created, "create_time", query.created), ("s", "update_time", query.updated)]
    {
        if let Some(from) = range.from {
            conditions.and(&format!("{table}.{column} >= "), from.0);
        }
        if let Some(until) = range.until {
            conditions.and(&format!("{table}.{column} < "), until.0);
        }
    }
    let (direction, comparison) = match query.order {
        Order::Newest | Order::LatestChange => ("DESC", "<"),
        Order::Oldest | Order::EarliestChange => ("ASC", ">"),
    };
    if let Some((time, id)) = &query.after {
        let time = conditions.statement.push(time.0);
        let id = conditions.statement.push(id.as_str());
        conditions.add(&format!("({by}.{column}, {by}.id) {comparison} (${time}, ${id})"));
    }
    let mut statement = conditions.statement;
    let limit = statement.push(i64::try_from(query.limit).unwrap_or(i64::MAX));
    statement.add(&format!(" ORDER BY {by}.{column} {direction}, {by}.id {direction} LIMIT ${limit}"));
    statement
}

/// A statement to which conditions are added.
struct Conditions {
    statement: Statement,
    are_none: bool,
}

impl Conditions {
    fn add(&mut self, text: &str) {
        self.statement.add(if self.are_none { " WHERE " } else { " AND " });
        self.statement.add(text);
        self.are_none = false;
    }

    /// Adds a comparison with a value.
    fn and(&mut self, text: &str, value: impl Into<Value>) {
        let number = self.statement.push(value);
        self.add(&format!("{text}${number}"));
    }
}

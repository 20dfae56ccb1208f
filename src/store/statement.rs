//! A statement with its values, and rows: one form for both engines.

use std::time::Duration;

use std::{borrow::Cow, vec};

use sqlx::{Column as _, ColumnIndex, Database, Encode, Type, TypeInfo as _, ValueRef as _};

use super::error::Error;

/// A statement and the values of its parameters, `$1` and on.
#[derive(Clone)]
pub(super) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
}

/// A parameter, or a column of a row. What may be null has a type too, which PostgreSQL asks for.
#[derive(Clone)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Statement {
    pub(super) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), values: Vec::new() }
    }

    /// With the value of the next parameter.
    pub(super) fn with(mut self, value: impl Into<Value>) -> Self {
        self.push(value);
        self
    }

    /// Adds the value of the next parameter, and gives the parameter's number.
    pub(super) fn push(&mut self, value: impl Into<Value>) -> usize {
        self.values.push(value.into());
        self.values.len()
    }

    /// How many parameters have a value.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Adds to the text.
    pub(super) fn add(&mut self, text: &str) {
        self.text.to_mut().push_str(text);
    }

    /// It as sqlx's query. It lives in sqlx's cache of prepared statements, so texts must be few.
    pub(super) fn query<'q, DB: Database>(&'q self) -> sqlx::query::Query<'q, DB, DB::Arguments<'q>>
    where
        Option<i64>: Encode<'q, DB> + Type<DB>,
        Option<&'q str>: Encode<'q, DB> + Type<DB>,
        Option<&'q [u8]>: Encode<'q, DB> + Type<DB>,
    {
        self.values.iter().fold(sqlx::query(&self.text), |query, value| match value {
            Value::Int(value) => query.bind(*value),
            Value::Text(value) => query.bind(value.as_deref()),
            Value::Bytes(value) => query.bind(value.as_deref()),
        })
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(Some(value.into()))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Some(value).into()
    }
}

impl From<Option<&str>> for Value {
    /// PostgreSQL's texts have no NUL, and so that both engines store one thing, SQLite's have none either.
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(|text| text.replace('\0', "\u{fffd}")))
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(Some(value))
    }
}

/// A row: its columns are taken one after the other.
pub(super) struct Row(vec::IntoIter<Value>);

impl Row {
    /// Reads a row of either engine.
    pub(super) fn read<'r, R>(row: &'r R) -> Result<Self, sqlx::Error>
    where
        R: sqlx::Row,
        usize: ColumnIndex<R>,
        i32: sqlx::Decode<'r, R::Database> + Type<R::Database>,
        i64: sqlx::Decode<'r, R::Database> + Type<R::Database>,
        String: sqlx::Decode<'r, R::Database> + Type<R::Database>,
        Vec<u8>: sqlx::Decode<'r, R::Database> + Type<R::Database>,
    {
        let column = |at: usize| {
            let raw = row.try_get_raw(at)?;
            if raw.is_null() {
                return Ok(Value::Int(None));
            }
            // A type of the name that it has needs no second look, of which a long list has many.
            Ok(match raw.type_info().name() {
                "TEXT" | "VARCHAR" => Value::Text(Some(row.try_get_unchecked(at)?)),
                "BLOB" | "BYTEA" => Value::Bytes(Some(row.try_get_unchecked(at)?)),
                "INT4" => Value::Int(Some(row.try_get_unchecked::<i32, _>(at)?.into())),
                "INTEGER" | "INT8" => Value::Int(Some(row.try_get_unchecked(at)?)),
                _ => Value::Int(Some(row.try_get(at)?)),
            })
        };
        let columns: Result<Vec<_>, sqlx::Error> =
            row.columns().iter().map(|each| column(each.ordinal())).collect();
        Ok(Self(columns?.into_iter()))
    }

    pub(super) fn int(&mut self) -> Result<i64, Error> {
        match self.0.next() {
            Some(Value::Int(Some(value))) => Ok(value),
            other => Err(unexpected("a number", other)),
        }
    }

    pub(super) fn bool(&mut self) -> Result<bool, Error> {
        Ok(self.int()? != 0)
    }

    pub(super) fn text(&mut self) -> Result<String, Error> {
        match self.0.next() {
            Some(Value::Text(Some(value))) => Ok(value),
            other => Err(unexpected("a text", other)),
        }
    }

    pub(super) fn maybe_text(&mut self) -> Result<Option<String>, Error> {
        match self.0.next() {
            Some(Value::Text(Some(value))) => Ok(Some(value)),
            Some(Value::Int(None)) => Ok(None),
            other => Err(unexpected("a text or nothing", other)),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Error> {
        match self.0.next() {
            Some(Value::Bytes(Some(value))) => Ok(value),
            other => Err(unexpected("bytes", other)),
        }
    }
}

/// It tells no value: an error may be logged.
fn unexpected(expected: &str, found: Option<Value>) -> Error {
    let found = match found {
        None => "no column",
        Some(Value::Int(None) | Value::Text(None) | Value::Bytes(None)) => "nothing",
        Some(Value::Int(_)) => "a number",
        Some(Value::Text(_)) => "a text",
        Some(Value::Bytes(_)) => "bytes",
    };
    Error::Corrupt { problem: format!("a row has {found} in the place of {expected}") }
}

/// A time in microseconds, as statements have it.
pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

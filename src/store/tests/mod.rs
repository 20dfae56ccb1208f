//! Tests of the store's door, each on both engines where it concerns both.

mod folders;
mod listing;
mod opening;
mod outages;
mod ownership;
mod requests;
mod sessions;

use std::{collections::BTreeMap, time::Duration};

use tempfile::TempDir;

use super::{Config, Facts, Location, Node, OpenError, Ownership, Store, Time};
use crate::copilot::Secret;

/// Long enough for a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// No test lasts as long.
const LEASE: Duration = Duration::from_secs(300);

/// Where a test's store is.
struct Place {
    location: Location,
    _folder: Option<TempDir>,
}

impl Place {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { location: Location::Sqlite(folder.path().join("store.db")), _folder: Some(folder) }
    }

    async fn postgres() -> Self {
        Self::at(&test_postgres::shared().database().await)
    }

    /// A database of PostgreSQL.
    fn at(url: &str) -> Self {
        Self { location: Location::Postgres { url: Secret::new(url), password: None }, _folder: None }
    }

    fn config(&self, node: &str) -> Config {
        let node = Node {
            name: node.into(),
            address: format!("{node}:1"),
            version: "1.2.3".into(),
            lease: LEASE,
            is_command: false,
        };
        Config { location: self.location.clone(), node, time_limit: LIMIT, alone: false }
    }

    async fn open(&self) -> Store {
        self.open_as("node").await
    }

    async fn open_as(&self, node: &str) -> Store {
        Store::open(self.config(node)).await.unwrap()
    }

    async fn refusal(&self) -> OpenError {
        Store::open(self.config("node")).await.unwrap_err()
    }
}

/// Runs each of these functions on a place of either engine.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::super::Place::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::super::Place::postgres().await).await;
            })*
        }
    };
}
use on_both;

fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Makes a session of the tenant "t".
async fn make(store: &Store, id: &str) -> Ownership {
    store.create("t", id, &Facts::default(), Time(1)).await.unwrap()
}

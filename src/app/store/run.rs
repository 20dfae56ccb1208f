//! What the command does, and with which store.

use std::{io, path::PathBuf};

use tokio::{runtime::Handle, task::spawn_blocking};
use uuid::Uuid;

use super::{check::check, export::export, homes::Homes, import::import};
use crate::{
    app::{
        config::{Config, StoreLocation},
        outcome::Result,
    },
    backend::process::private,
    session::Tenant,
    store::{self, Location, Store},
};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look for what does not fit together.
    Check,
    /// Take a session out.
    Export {
        /// Whose it is; empty: of a server that asks nobody who he is.
        tenant: String,
        /// Its id.
        session: String,
        /// Where to; `-`: standard output.
        file: PathBuf,
    },
    /// Take a session in.
    Import {
        /// Whose it is to be; empty: of a server that asks nobody who he is.
        tenant: String,
        /// From where; `-`: standard input.
        file: PathBuf,
        /// Its id here, if that is to be another.
        id: Option<String>,
        /// Whether it may replace a session that is there.
        replace: bool,
    },
}

/// Does it.
pub async fn run(config: Config, action: Action) -> Result {
    let store = open(&config, matches!(action, Action::Import { .. })).await?;
    let homes = Homes::new(&config)?;
    let done = match action {
        Action::Check => check(&store, &homes, config.seal.as_ref()).await,
        Action::Export { tenant, session, file } => export(&store, &homes, &tenant, &session, &file).await,
        Action::Import { tenant, file, id, replace } => {
            import(&store, &homes, config.archive, &Tenant::named(&tenant), &file, id, replace).await
        }
    };
    store.close().await;
    done
}

/// Opens the store; makes one only where something is to be put into it.
async fn open(
    config: &Config,
    make: bool,
) -> std::result::Result<Store, Box<dyn std::error::Error + Send + Sync>> {
    let location = match config.store.location.clone() {
        StoreLocation::Sqlite(path) => {
            if make {
                private::create(&config.state_dir)?;
            } else if !path.try_exists()? {
                let problem = format!("there is no store at {}: is --state-dir right?", path.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, problem).into());
            }
            Location::Sqlite(path)
        }
        StoreLocation::Postgres { url, password } => Location::Postgres { url, password },
    };
    // Not the server's own id: to the store a server that runs would look like one that has been replaced.
    let node = format!("command-{}", Uuid::new_v4());
    // Beside servers, whose sessions it leaves alone.
    let node = store::Node {
        name: node,
        address: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lease: config.cluster.lease,
        is_command: true,
    };
    let config = store::Config { location, node, time_limit: config.store.time_limit, alone: false };
    let runtime = Handle::current();
    // As in `serve`: the compiler does not see that what sqlx does here can change threads.
    Ok(spawn_blocking(move || runtime.block_on(Store::open(config))).await??)
}

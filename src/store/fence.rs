//! What it means that a write for a session has found no row.

use super::{connection::Failure, error::Error, pool::Work, record::Uid, statement::Statement};

/// Why a write for a session was refused.
pub(super) async fn why_refused(work: &mut Work, uid: Uid) -> Result<Error, Failure> {
    let look = Statement::new("SELECT fence FROM sessions WHERE uid = $1").with(uid.0);
    Ok(if work.row(&look).await?.is_some() { Error::Fenced } else { Error::Gone })
}

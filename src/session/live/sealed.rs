//! The credentials of sessions, sealed in the store where the operator has given a key.

use super::{means::Means, session::Session};
use crate::{
    session::{blueprint::Credentials, error::Error, id::SessionKey},
    store::{self, Ownership},
};

impl Session {
    /// Stores the credentials that it has, so that they outlast this process. Without a key they are in memory only.
    ///
    /// # Errors
    /// If the store is away: they cannot be promised.
    pub(in crate::session) async fn save_credentials(&self) -> Result<(), Error> {
        let (Some(sealer), Some(ownership)) = (&self.means.sealer, self.ownership()) else { return Ok(()) };
        let credentials = self.blueprint().credentials();
        let sealed = (credentials != Credentials::default())
            .then(|| sealer.seal(&context(&self.key), &credentials.write()));
        Ok(self.means.store.set_credentials(ownership, sealed.as_deref()).await?)
    }
}

/// The credentials of a session that are sealed in the store; none, where there is no key that opens them.
pub(in crate::session) async fn unsealed(
    means: &Means,
    key: &SessionKey,
    ownership: Ownership,
) -> Result<Credentials, Error> {
    let Some(sealer) = &means.sealer else { return Ok(Credentials::default()) };
    let Some(sealed) = means.store.credentials(ownership.uid).await? else {
        return Ok(Credentials::default());
    };
    match sealer.open(&context(key), &sealed) {
        Ok(credentials) => {
            // So that the older key can be taken away some day.
            if sealer.is_by_an_older_key(&sealed) {
                let sealed = sealer.seal(&context(key), &credentials);
                means.store.set_credentials(ownership, Some(&sealed)).await?;
            }
            Ok(Credentials::read(&credentials).unwrap_or_default())
        }
        Err(error) => {
            tracing::warn!(session = %key.id(), %error, "the credentials of a session cannot be opened: they have to be brought again");
            Ok(Credentials::default())
        }
    }
}

/// What sealed credentials are bound to, so that they are of no use in another session.
fn context(key: &SessionKey) -> Vec<u8> {
    store::context(key.tenant().as_str(), key.id().as_str())
}

//! Requests that are done once, by whichever process: the store knows who has them.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    session::{
        error::Error,
        id::SessionId,
        idempotency::Claim,
        sessions::Sessions,
        turn::{Delivery, Outcome, Remains, TurnCause, TurnError, recorded},
    },
    store::{Begun, RequestKey, RequestRecord, RequestState, Scope},
};

/// How often it is looked whether another process has come to an end with a request.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Sessions {
    /// Takes a request on, unless it is done. The caller has its [`turn`](crate::session::idempotency::Idempotency::turn). One that another process has in hand is waited for; one that a process has left behind is
    /// taken over if it was never sent, and else is closed as what it is: a turn that was cut. A session's requests are those of who
    /// owns it, which is this process.
    ///
    /// # Errors
    /// If the id stands for another request.
    ///
    /// # Cancel safety
    /// Dropping it may leave the request begun and in nobody's hand; then the next call takes it on.
    pub(super) async fn begun(
        &self,
        key: &RequestKey,
        fingerprint: u64,
        begin: Begin<'_>,
    ) -> Result<Claim, Error> {
        let (store, claims) = (self.store(), &self.inner.means.claims);
        let (note, prompt) = match begin {
            Begin::Creation(id) => (Some(id.as_str()), None),
            Begin::Turn(prompt) => (None, prompt),
        };
        let is_submitted = prompt.is_some();
        let fingerprint = fingerprint.cast_signed();
        loop {
            let known = match store.begin(key, fingerprint, note, prompt.map(<[u8]>::to_vec)).await? {
                Begun::First => return Ok(Claim::Ours(claims.claim(key, is_submitted), None)),
                Begun::Known(known) if known.fingerprint != fingerprint => {
                    return Err(Error::RequestIdTaken { field: field(key.scope) });
                }
                Begun::Known(known) => known,
            };
            match known {
                RequestRecord { state, result, .. } if state.is_ended() => {
                    return Ok(Claim::Ended(result.unwrap_or_default()));
                }
                RequestRecord { is_ours: true, .. } if claims.has(key) => sleep(LOOK_AGAIN).await,
                RequestRecord { is_ours: false, is_alive: true, .. } if key.scope == Scope::Create => {
                    sleep(LOOK_AGAIN).await;
                }
                // Begun here, and given up by its caller before anything was done.
                RequestRecord { state: RequestState::Accepted, is_ours: true, result, .. } => {
                    return Ok(Claim::Ours(claims.claim(key, is_submitted), result));
                }
                RequestRecord { state: RequestState::Accepted, owner, result, .. } => {
                    // Another process may be faster.
                    if store.take_over(key, &owner).await? {
                        return Ok(Claim::Ours(claims.claim(key, is_submitted), result));
                    }
                }
                RequestRecord { owner, .. } => {
                    store.close_left(key, &owner, &recorded::write(&left_behind())).await?;
                }
            }
        }
    }
}

/// What a request begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin<'a> {
    /// A session, which is to have this id.
    Creation(&'a SessionId),
    /// A turn; with what is to be sent where nobody waits for it who would send it again.
    Turn(Option<&'a [u8]>),
}

/// How a turn ended whose process died over it.
pub(super) fn left_behind() -> Outcome {
    let cause = TurnCause::Interrupted(recorded::LEFT_BEHIND.into());
    Err(Arc::new(TurnError { cause, delivery: Delivery::Unknown, remains: Remains::default() }))
}

/// The field of the request that has the id.
fn field(scope: Scope) -> &'static str {
    match scope {
        Scope::Create => "request_id",
        Scope::Session(_) => "prompt.request_id",
    }
}

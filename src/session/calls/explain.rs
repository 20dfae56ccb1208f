//! What an error of a call is to its caller: mostly that the session was deleted.

use crate::{
    backend,
    copilot::Rejection,
    session::{error::Error, id::SessionKey, sessions::Sessions, turn::TurnCause},
    store,
};

impl Sessions {
    /// What an error of a call about this session is to its caller.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn explain(&self, key: &SessionKey, error: Error) -> Error {
        let id = key.id();
        if matches!(error, Error::Store(store::Error::Gone)) {
            return Error::NotFound(id.clone());
        }
        let Some(rejection) = rejection(&error) else { return error };
        let Some(session) = self.inner.registry.find(key) else {
            let gone = matches!(self.record(key).await, Ok(None));
            return if gone { Error::NotFound(id.clone()) } else { error };
        };
        match rejection {
            _ if session.is_gone().await => Error::NotFound(id.clone()),
            Rejection::Agent(failure) => session.tell(failure.clone()),
            Rejection::SessionNotFound => {
                // Another client has closed it, or made it anew. The next call is to load it again.
                if session.queued() == 0 {
                    session.unloaded();
                }
                let problem = format!("it does not have session {id} loaded any more: try again");
                backend::Error::Unavailable { problem }.into()
            }
            _ => error,
        }
    }
}

/// The CLI's refusal, if the error is one.
fn rejection(error: &Error) -> Option<&Rejection> {
    match error {
        Error::Backend(backend::Error::Rejected(rejection)) => Some(rejection),
        Error::Turn(turn) => match &turn.cause {
            TurnCause::Backend(backend::Error::Rejected(rejection)) => Some(rejection),
            _ => None,
        },
        _ => None,
    }
}

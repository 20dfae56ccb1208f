//! The lists of models that GitHub gave, remembered for some minutes.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    backend::LinkId,
    copilot::{Secret, method::Model},
    lock::lock,
};

/// How long GitHub's list counts: the CLI asks GitHub for each call.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// How many accounts' lists are kept; each takes some 20 KB.
const MAX_LISTS: usize = 256;

/// The lists that GitHub gave, by account.
#[derive(Debug, Default)]
pub(super) struct Models {
    lists: Mutex<HashMap<Account, List>>,
    hashers: [RandomState; 2],
}

/// A list, and when it was asked for.
type List = (Instant, Arc<Vec<Model>>);

/// Who asked on which link, without the token itself: that is not kept for longer than a call takes. 128 bits under keys
/// that nobody knows are not hit by chance.
type Account = (LinkId, [u64; 2]);

impl Models {
    pub(super) fn account(&self, link: LinkId, token: Option<&Secret>) -> Account {
        let token = token.map(Secret::expose);
        (link, self.hashers.each_ref().map(|hasher| hasher.hash_one(token)))
    }

    pub(super) fn find(&self, account: Account, now: Instant) -> Option<Arc<Vec<Model>>> {
        let lists = lock(&self.lists);
        let (at, models) = lists.get(&account)?;
        (now - *at < FRESH).then(|| models.clone())
    }

    pub(super) fn keep(&self, account: Account, now: Instant, models: Arc<Vec<Model>>) {
        let mut lists = lock(&self.lists);
        if lists.len() >= MAX_LISTS {
            lists.retain(|_, (at, _)| now - *at < FRESH);
        }
        if lists.len() >= MAX_LISTS {
            lists.clear();
        }
        lists.insert(account, (now, models));
    }
}

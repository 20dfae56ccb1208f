//! Who owns a session, as the SQL of [`ownership`](super::super::ownership) is to have it: the tests hold the two together.

/// Of a session's row: who owns it, and its fence. `N` is a process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::store) struct Title<N> {
    pub(in crate::store) owner: Option<N>,
    pub(in crate::store) fence: i64,
}

impl<N: PartialEq> Title<N> {
    /// The session goes to this process, if it may; it has the next fence then.
    pub(in crate::store) fn take(&mut self, by: N, is_alive: impl FnOnce(&N) -> bool) -> bool {
        let is_free = self.owner.as_ref().is_none_or(|owner| *owner == by || !is_alive(owner));
        if is_free {
            *self = Self { owner: Some(by), fence: self.fence + 1 };
        }
        is_free
    }

    /// Its owner lets it go.
    pub(in crate::store) fn let_go(&mut self, fence: i64) -> bool {
        let admits = self.owner.is_some() && self.admits(fence);
        if admits {
            *self = Self { owner: None, fence: self.fence + 1 };
        }
        admits
    }

    /// Whether somebody with this fence may write for the session.
    pub(in crate::store) fn admits(&self, fence: i64) -> bool {
        self.fence == fence
    }
}

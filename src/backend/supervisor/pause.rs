//! How long it takes until a CLI is tried again.

use std::time::Duration;

/// The pause before the first new attempt; it doubles up to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between attempts.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

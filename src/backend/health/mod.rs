//! The health of a CLI: whether it gets new sessions, and counts and times for operators.

mod outlier;
mod standing;
mod stats;

pub use outlier::Ejection;
pub(in crate::backend) use standing::Eligibility;
pub use standing::Standing;
pub use stats::{ProcessStats, Stats};

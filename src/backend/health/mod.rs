//! How a CLI does: whether it gets new sessions, and what is known of it beside its state.

mod outlier;
mod standing;
mod vitals;

pub use outlier::Ejection;
pub(in crate::backend) use standing::Marks;
pub use standing::Standing;
pub use vitals::{Life, Vitals};

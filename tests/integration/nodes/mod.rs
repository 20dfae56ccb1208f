//! Several servers that share a store are one service: any of them serves any session, and whichever dies, nothing is lost.

mod chaos;
mod cluster;
mod forwarding;
mod misled;
mod partitions;
mod rolling;
mod submitted;
mod takeover;
mod trust;
mod versions;

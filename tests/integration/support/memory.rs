//! How much more memory a process takes than it once did.

use std::fs;

/// The most memory that a process has had until a moment.
#[derive(Clone, Copy)]
pub(crate) struct Peak {
    process: u32,
    bytes: u64,
}

impl Peak {
    pub(crate) fn of(process: u32) -> Self {
        Self { process, bytes: peak(process) }
    }

    /// By how many bytes it has been surpassed since. The kernel counts by processor and adds up by about, so that a peak
    /// may also seem to sink a little.
    pub(crate) fn surpassed_by(&self) -> u64 {
        peak(self.process).saturating_sub(self.bytes)
    }
}

fn peak(process: u32) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{process}/status")).expect("memory is read in Linux's /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

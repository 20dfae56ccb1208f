//! What is known of a CLI beside its state: how long it has run, how often it failed, what it printed last.

use std::{fs, time::SystemTime};

use tokio::time::Instant;

/// What is known of a CLI beside its state.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    /// The process that runs, if it is ours.
    pub life: Option<Life>,
    /// How often it was recycled.
    pub recycled: u64,
    /// How often in a row it could not be started or connected to, or was lost soon after.
    pub failures: u32,
    /// What it printed last before it ended, until the next one has held for a while. For the operator: it is the CLI's words,
    /// about anything.
    pub last_lines: Vec<String>,
}

/// A CLI's process.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// Its number, if it is known.
    pub pid: Option<u32>,
    /// Since when it runs, by the wall.
    pub start_time: SystemTime,
    /// The same, for measuring.
    pub(in crate::backend) began: Instant,
    /// How many turns others before it had run.
    pub(in crate::backend) turns_before: u64,
}

impl Life {
    /// One that begins now.
    pub(in crate::backend) fn begin(pid: Option<u32>, turns_before: u64) -> Self {
        Self { pid, start_time: SystemTime::now(), began: Instant::now(), turns_before }
    }

    /// How much memory it holds, in bytes. `None` where the kernel does not say.
    pub fn memory(&self) -> Option<u64> {
        resident(&fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?)
    }
}

/// The resident memory in `/proc/PID/status`: `VmRSS:    214320 kB` (proc_pid_status(5)).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says_is_resident() {
        let check = |status, expected| assert_eq!(resident(status), expected, "{status}");
        check(
            "Name:\tcopilot\nVmHWM:\t  300000 kB\nVmRSS:\t  214320 kB\nThreads:\t12\n",
            Some(214_320 * 1024),
        );
        // A process that is dead has none.
        check("Name:\tcopilot\nState:\tZ (zombie)\n", None);
        check("VmRSS: many kB", None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_holds_some_memory() {
        let life = Life::begin(Some(std::process::id()), 0);
        assert!(life.memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}

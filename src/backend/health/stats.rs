//! Counts and times of a CLI, for operators and for recycling.

use std::{fs, time::SystemTime};

use tokio::time::Instant;

/// Failures, restarts, last output and the process of a CLI.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// The running process, if the CLI is embedded.
    pub process: Option<ProcessStats>,
    /// How often the CLI was recycled.
    pub recycled: u64,
    /// How often in a row the CLI could not be started or connected to, or was lost soon after.
    pub failures: u32,
    /// The last lines that the CLI printed before it ended, kept until the next one has held for a while. For operators: the
    /// CLI may print anything.
    pub last_lines: Vec<String>,
}

/// Start, memory and turns of a running CLI process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessStats {
    /// The process id, if it is known.
    pub pid: Option<u32>,
    /// Start of the process, as wall-clock time.
    pub start_time: SystemTime,
    /// Start of the process, as monotonic time.
    pub(in crate::backend) began: Instant,
    /// Number of turns that this backend had admitted before the process started.
    pub(in crate::backend) turns_before: u64,
}

impl ProcessStats {
    /// The stats of a process that starts now.
    pub(in crate::backend) fn begin(pid: Option<u32>, turns_before: u64) -> Self {
        Self { pid, start_time: SystemTime::now(), began: Instant::now(), turns_before }
    }

    /// Resident memory in bytes. `None` where the kernel does not say.
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
        // A dead process has none.
        check("Name:\tcopilot\nState:\tZ (zombie)\n", None);
        check("VmRSS: many kB", None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_holds_some_memory() {
        let process = ProcessStats::begin(Some(std::process::id()), 0);
        assert!(process.memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}

//! What the kernel knows of a process.

use std::{fs, io};

/// The CPU time that a process has used so far, in microseconds: its own and the kernel's for it. Of its threads those that run by
/// now; it is what the scheduler counts in nanoseconds, because times in ticks (`/proc/PID/stat`) are samples, which miss what
/// runs for some microseconds after each timer.
///
/// # Errors
/// If it is gone.
pub fn cpu(pid: u32) -> io::Result<u64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended by now.
        let times = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let running = times.split_ascii_whitespace().next().and_then(|time| time.parse::<u64>().ok());
        nanoseconds += running.unwrap_or_default();
    }
    Ok(nanoseconds / 1000)
}

/// The memory that a process has for itself, in bytes: what it does not share with files.
///
/// # Errors
/// If it is gone.
pub fn memory(pid: u32) -> io::Result<u64> {
    Ok(status(pid, "RssAnon:")? * 1024)
}

/// The most memory that a process has had so far, in bytes.
///
/// # Errors
/// If it is gone.
pub fn peak(pid: u32) -> io::Result<u64> {
    Ok(status(pid, "VmHWM:")? * 1024)
}

/// How many threads a process has.
///
/// # Errors
/// If it is gone.
pub fn threads(pid: u32) -> io::Result<u64> {
    status(pid, "Threads:")
}

fn status(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    Ok(line.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default())
}

/// The children of a process that still run.
///
/// # Errors
/// If the process is gone.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let of_thread = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        children.extend(of_thread.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    children.sort_unstable();
    Ok(children)
}

/// How many descriptors a process has open.
///
/// # Errors
/// If it is gone.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
